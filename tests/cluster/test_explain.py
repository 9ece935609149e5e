"""`kubectl explain` reads like documentation: every field, at every depth, says what it is for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from support.crd import CRD_FILE, install
from support.eventually import eventually
from support.kubectl import Kubectl
from support.yamls import document

pytestmark = pytest.mark.cluster


def _schema() -> dict[str, Any]:
    crd = document(CRD_FILE.read_text(encoding="utf-8"))
    schema: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def _fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        yield here, field
        child = field.get("items") or field.get("additionalProperties") or field
        yield from _fields(child, here)


FIELDS = {path: field for path, field in _fields(_schema()) if not path.startswith("metadata")}


@pytest.fixture(scope="module", autouse=True)
def _crd(kubectl: Kubectl) -> None:
    """The API server publishes its OpenAPI a moment after it serves a CRD."""
    install(kubectl)
    eventually(lambda: kubectl.run("explain", "dsj.status.training"), deadline_s=60, what="published schema")


def test_every_field_of_the_crd_has_a_description() -> None:
    missing = [path for path, field in FIELDS.items() if len(field.get("description", "")) < 5]
    assert missing == []


def explained(text: str) -> set[str]:
    """The paths of a recursive explanation, from its indentation."""
    paths, parents = set(), dict[int, str]()
    _, _, tree = text.partition("FIELDS:\n")
    for line in tree.splitlines():
        if not (match := re.fullmatch(r"( +)(\w+)\t<.*", line)):
            continue
        depth, name = len(match[1]), match[2]
        above = parents.get(depth - 2, "")
        parents[depth] = f"{above}{name}."
        paths.add(f"{above}{name}")
    return paths


@pytest.mark.parametrize("section", ["spec", "status"])
def test_explain_shows_every_field_in_its_place(kubectl: Kubectl, section: str) -> None:
    shown = explained(kubectl.run("explain", f"dsj.{section}", "--recursive"))
    assert shown == {path.removeprefix(f"{section}.") for path in FIELDS if path.startswith(f"{section}.")}


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("dsj", "A distributed training run of a DeepSeek model."),
        ("dsj.spec", "What is trained, on what, with which data, saved where."),
        ("dsj.spec.workers.procPerNode", "Training processes in each pod"),
        ("dsj.spec.checkpoint.volume", "the claim that is made for the job when it starts"),
        ("dsj.spec.checkpoint.volume.template", "onDelete <string> enum: Retain, Delete"),
        ("dsj.spec.checkpoint.volume.template.onDelete", "a job of the same name takes it again"),
        ("dsj.spec", "backend <string> enum: auto, nccl, gloo"),
        ("dsj.spec.trainer.training.globalBatchSize", "Sequences per optimizer step over all ranks."),
        ("dsj.spec.data", "corpus <string> enum: chitchat, gcide"),
        ("dsj.spec.checkpoint.volume.claimName", "ReadWriteMany"),
        ("dsj.spec.checkpoint.objectStore", "url <string> -required-"),
        ("dsj.spec.workers.sidecars", "keep a finished pod alive"),
        ("dsj.spec.workers.volumes.image", "Kubernetes 1.33 or later"),
        ("dsj.spec.communication.interface", "NCCL_SOCKET_IFNAME"),
        ("dsj.spec.scheduling.topology", "mode <string> enum: Required, Preferred"),
        ("dsj.status.training.chain", "the data receipt"),
        ("dsj.status.conditions", "Facts about the job"),
    ],
)
def test_explain_answers_the_question(kubectl: Kubectl, path: str, says: str) -> None:
    assert says in " ".join(kubectl.run("explain", path).split())
