"""What `kubectl get dsj` shows of a status that is filled in, and of one that isn't yet."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from deepseek_operator.api.v1alpha1 import (
    CheckpointStatus,
    Condition,
    GoodputStatus,
    Nodes,
    Restarts,
    Status,
    TrainingProgress,
)
from support.bad_manifests import changed, trainer_job
from support.crd import install
from support.kubectl import Kubectl

pytestmark = pytest.mark.cluster

NAME = "columns"
STATUS = Status(
    observed_generation=1,
    state="Running",
    reason="Training",
    conditions=[
        Condition(
            type="Running",
            status="True",
            reason="Training",
            last_transition_time="2026-03-01T12:00:00Z",
            observed_generation=1,
        ),
    ],
    attempt=2,
    generation=2,
    nodes=Nodes(ready=2, desired=2),
    ready_nodes="2/2",
    training=TrainingProgress(
        phase="training", step=140, total_steps=200, percent="70%", loss="5.021", tokens_per_second=4096, eta="1m12s"
    ),
    checkpoint=CheckpointStatus(
        step=125, time="2026-03-01T12:03:00Z", path="/checkpoints/step-00000125", bytes=6_000_000, seconds=0.4
    ),
    restarts=Restarts(infrastructure=1),
    total_restarts=1,
    goodput=GoodputStatus(productive=180, startup=12, recovery=8, ratio="90%"),
)


@pytest.fixture
def job(kubectl: Kubectl) -> Iterator[str]:
    """The name of a job with an empty status."""
    install(kubectl)
    kubectl.apply(changed(trainer_job(), {"metadata/name": NAME}))
    yield NAME
    kubectl.run("delete", "dsj", NAME, "--wait=false")


def _table(kubectl: Kubectl, *args: str) -> dict[str, str]:
    """Heading -> cell of the one row; cells of an empty column are missing, so columns are cut by position."""
    header, row = kubectl.run("get", "dsj", NAME, *args).rstrip("\n").split("\n")
    names = header.split()
    starts = [header.index(f" {name}") + 1 if number else 0 for number, name in enumerate(names)]
    ends = [*starts[1:], len(row) + 1]
    return {name: row[start:end].strip() for name, start, end in zip(names, starts, ends, strict=True)}


def _write(kubectl: Kubectl, status: Status) -> None:
    body = json.dumps({"status": status.model_dump(mode="json", by_alias=True, exclude_none=True)})
    kubectl.run("patch", "dsj", NAME, "--subresource=status", "--type=merge", "-p", body)


def test_the_columns_tell_how_far_the_training_is(kubectl: Kubectl, job: str) -> None:
    _write(kubectl, STATUS)
    table = _table(kubectl)
    assert list(table) == ["NAME", "STATE", "NODES", "STEP", "PROGRESS", "LOSS", "RESTARTS", "ETA", "AGE"]
    assert table.pop("AGE")
    assert list(table.values()) == [job, "Running", "2/2", "140", "70%", "5.021", "1", "1m12s"]


def test_wide_adds_what_an_operator_of_clusters_asks(kubectl: Kubectl, job: str) -> None:
    _write(kubectl, STATUS)
    table = _table(kubectl, "-o", "wide")
    added = {name: table[name] for name in ("TOK/S", "CKPT", "GOODPUT", "ATTEMPT", "REASON")}
    assert added == {"TOK/S": "4096", "CKPT": "125", "GOODPUT": "90%", "ATTEMPT": "2", "REASON": "Training"}


def test_a_job_without_status_is_shown_too(kubectl: Kubectl, job: str) -> None:
    header, row = kubectl.run("get", "dsj", job).rstrip("\n").split("\n")
    assert header.split()[:2] == ["NAME", "STATE"]
    assert row.split()[0] == job


def test_a_status_comes_back_as_it_was_written(kubectl: Kubectl, job: str) -> None:
    _write(kubectl, STATUS)
    assert Status.model_validate(kubectl.json("get", "dsj", job)["status"]) == STATUS


def test_a_status_write_leaves_the_spec_alone(kubectl: Kubectl, job: str) -> None:
    before = kubectl.json("get", "dsj", job)
    _write(kubectl, STATUS)
    after = kubectl.json("get", "dsj", job)
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


def test_the_category_and_the_short_name_work(kubectl: Kubectl, job: str) -> None:
    assert job in kubectl.run("get", "ai")
    assert job in kubectl.run("get", "dsj")


def test_kubectl_wait_sees_the_conditions(kubectl: Kubectl, job: str) -> None:
    """It ignores a condition whose observedGeneration is older than the object."""
    _write(kubectl, STATUS)
    kubectl.run("wait", "--for=condition=Running", f"dsj/{job}", "--timeout=60s", timeout_s=90)
    kubectl.run("wait", "--for=jsonpath={.status.state}=Running", f"dsj/{job}", "--timeout=60s", timeout_s=90)
