"""Validation without a cluster: what the API server refuses is refused here, with the field's name and a remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from deepseek_client import manifest
from deepseek_client.errors import ManifestError
from support.bad_manifests import BAD, Bad, changed, script_job, trainer_job

MESSAGES = [
    ({"spec/workers/replica": 2}, "spec.workers.replica: unknown field; did you mean replicas?"),
    ({"spec/worker": {}}, "spec.worker: unknown field; did you mean workers?"),
    ({"spec/trainer/training/step": 5}, "spec.trainer.training.step: unknown field; did you mean steps?"),
    ({"spec/data/xyz": 1}, "spec.data.xyz: unknown field; known here: "),
    (
        {"spec/trainer/training": {}},
        "spec.trainer.training.steps: required; optimizer steps of the whole run, over all restarts",
    ),
    (
        {"spec/workers/replicas": -1},
        "spec.workers.replicas: input should be greater than or equal to 1, not -1",
    ),
    ({"spec/trainer/model/preset": "huge"}, "spec.trainer.model.preset: input should be 'tiny', 'small', 'reference'"),
    ({"kind": "Job"}, "kind: must be DeepSeekJob, not 'Job'"),
    (
        {"apiVersion": "v1"},
        "apiVersion: must be training.deepseekjob.dev/v1alpha1, not 'v1'",
    ),
    (
        {"spec/workers/env/0/name": "DEEPSEEKJOB_NAME"},
        "names that start with DEEPSEEKJOB_ are set by the operator; choose another name",
    ),
]


def problems(document: dict[str, Any]) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        manifest.parse(document)
    return caught.value.problems


@pytest.mark.parametrize("document", [trainer_job(), script_job()], ids=["trainer", "script"])
def test_right_manifests_are_accepted(document: dict[str, Any]) -> None:
    assert manifest.parse(document).metadata.name == "right"


@pytest.mark.parametrize(("changes", "line"), MESSAGES, ids=[line[:40] for _, line in MESSAGES])
def test_one_line_names_the_field_and_the_remedy(changes: dict[str, Any], line: str) -> None:
    (problem,) = problems(changed(trainer_job(), changes))
    assert line in problem


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.id)
def test_what_the_api_server_refuses_is_refused_here(bad: Bad) -> None:
    lines = problems(bad.manifest())
    assert all("\n" not in line for line in lines)


def test_every_wrong_field_is_named_at_once() -> None:
    lines = problems(changed(trainer_job(), {"spec/workers/procPerNode": 0, "spec/data/corpus": "x", "kind": "Y"}))
    assert [line.split(":")[0] for line in lines] == ["kind", "spec.workers.procPerNode", "spec.data.corpus"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a: [", "not YAML"),
        ("", "expected one DeepSeekJob object, found 0 documents"),
        ("a: 1\n---\nb: 2\n", "found 2 documents"),
        ("- a\n", "expected one DeepSeekJob object"),
    ],
)
def test_a_file_that_holds_no_manifest_is_one_line(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(content)
    with pytest.raises(ManifestError) as caught:
        manifest.read(path)
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="give the path of a manifest"):
        manifest.read(tmp_path / "nowhere.yaml")


def test_a_manifest_that_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(trainer_job()))
    assert manifest.read(path).spec.workers.replicas == 2
