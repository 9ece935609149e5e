"""What of a job may change when: the API server refuses the rest, says why, and what to do instead."""

from __future__ import annotations

from typing import Any

import pytest
from support import full_job
from support.api import Api, ApiFailure, Jobs
from support.bad_manifests import GONE, Manifest, changed
from support.changes import ALWAYS, ANEW, HOLES, NEVER, SUSPEND_FIRST, WHILE_SUSPENDED, Change, running, uncovered

pytestmark = pytest.mark.cluster

RUNNING: Change = {"suspend": False}
SUSPENDED: Change = {"suspend": True}


class Existing:
    """A job that exists, and what a change of it would meet."""

    def __init__(self, jobs: Jobs, before: Change) -> None:
        self._jobs = jobs
        self._path = f"{jobs.path}/existing"
        self._manifest = _with(changed(running(), {"metadata/namespace": jobs.namespace}), before)
        self._version = jobs.api.create(jobs.path, self._manifest)["metadata"]["resourceVersion"]

    def refusal(self, change: Change) -> str:
        """What the API server says; empty when it would take the change."""
        wanted = changed(_with(self._manifest, change), {"metadata/resourceVersion": self._version})
        try:
            self._jobs.api.send("PUT", f"{self._path}?dryRun=All&fieldValidation=Strict", wanted)
        except ApiFailure as failure:
            if failure.status != 422:
                raise
            return str(failure)
        return ""


def _with(manifest: Manifest, change: Change) -> Manifest:
    present = {path: value for path, value in change.items() if value is not GONE or _has(manifest["spec"], path)}
    return changed(manifest, {f"spec/{path}": value for path, value in present.items()})


def _has(node: Any, path: str) -> bool:
    for part in path.split("/"):
        if part not in node:
            return False
        node = node[part]
    return True


def test_every_field_is_in_a_table() -> None:
    # A job of the built-in trainer has no entrypoint to change: see the test of the script below.
    assert uncovered() == set()


@pytest.mark.parametrize("before", [RUNNING, SUSPENDED], ids=["running", "suspended"])
@pytest.mark.parametrize("name", NEVER)
def test_never(jobs: Jobs, before: Change, name: str) -> None:
    assert ANEW in Existing(jobs, before).refusal(NEVER[name])


@pytest.mark.parametrize("name", WHILE_SUSPENDED)
def test_only_while_suspended(jobs: Jobs, name: str) -> None:
    assert SUSPEND_FIRST in Existing(jobs, RUNNING).refusal(WHILE_SUSPENDED[name])


@pytest.mark.parametrize("name", WHILE_SUSPENDED)
def test_while_suspended(jobs: Jobs, name: str) -> None:
    suspended = Existing(jobs, SUSPENDED)
    assert suspended.refusal(WHILE_SUSPENDED[name]) == ""
    # What is changed and resumed in one request has been changed while it was suspended.
    assert suspended.refusal(WHILE_SUSPENDED[name] | RUNNING) == ""


@pytest.mark.parametrize("before", [RUNNING, SUSPENDED], ids=["running", "suspended"])
@pytest.mark.parametrize("name", ALWAYS)
def test_always(jobs: Jobs, before: Change, name: str) -> None:
    assert Existing(jobs, before).refusal(ALWAYS[name]) == ""


@pytest.mark.parametrize("name", HOLES)
def test_nothing_slips_through(jobs: Jobs, name: str) -> None:
    change, says = HOLES[name]
    assert says in Existing(jobs, RUNNING).refusal(change)


SCRIPT: Change = {
    **dict.fromkeys(("trainer", "data", "checkpoint/resumeFrom", "checkpoint/memory"), GONE),
    "entrypoint": {"script": "/train.py", "args": ["--lr", "1"]},
}


@pytest.mark.parametrize("before", [RUNNING, SUSPENDED], ids=["running", "suspended"])
@pytest.mark.parametrize(
    "change", [{"entrypoint/args": ["--lr", "2"]}, {"entrypoint": {"module": "m"}}, {"entrypoint/args": GONE}], ids=str
)
def test_the_script_never_changes(jobs: Jobs, before: Change, change: Change) -> None:
    assert ANEW in Existing(jobs, SCRIPT | before).refusal(change)


BARE: Change = {
    **dict.fromkeys(("profile", "managedBy", "elastic", "checkpoint", "preflight", "scheduling"), GONE),
    # These need the checkpoint volume.
    **dict.fromkeys(("workers/initContainers", "workers/sidecars", "data/audit"), GONE),
}


@pytest.mark.parametrize(
    ("before", "change", "says"),
    [
        (RUNNING, {"profile": "p"}, ANEW),
        (SUSPENDED, {"profile": "p"}, ANEW),
        (SUSPENDED, {"managedBy": "example.com/x"}, ANEW),
        (RUNNING, {"checkpoint": {"volume": {"claimName": "c"}}}, SUSPEND_FIRST),
        (SUSPENDED, {"checkpoint": {"volume": {"claimName": "c"}}}, ""),
        (RUNNING, {"preflight": {}}, SUSPEND_FIRST),
        (SUSPENDED, {"preflight": {}}, ""),
        (RUNNING, {"workers/replicas": 4}, "set elastic.minReplicas and maxReplicas, or suspend it first"),
        (SUSPENDED, {"workers/replicas": 4}, ""),
        (RUNNING, {"elastic": {"maxReplicas": 8}}, ""),
        (RUNNING, {"elastic": {"maxReplicas": 8}, "workers/replicas": 4}, ""),
        (RUNNING, {"elastic": {"maxReplicas": 2}}, "choose a number between them"),
    ],
    ids=str,
)
def test_what_was_left_out_at_first(jobs: Jobs, before: Change, change: Change, says: str) -> None:
    refusal = Existing(jobs, BARE | before).refusal(change)
    assert says in refusal
    assert bool(says) == bool(refusal)


MADE: Change = {"checkpoint/volume": {"template": full_job.CLAIM, "subPath": "runs/full"}}
VOLUME = "checkpoint/volume"


@pytest.mark.parametrize("before", [RUNNING, SUSPENDED], ids=["running", "suspended"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({f"{VOLUME}/template/size": "1Ti"}, ""),
        ({f"{VOLUME}/template/size": "499Gi"}, "size can only grow"),
        ({f"{VOLUME}/template/onDelete": "Retain"}, ""),
        ({f"{VOLUME}/template/storageClassName": "fast"}, ANEW),
        ({f"{VOLUME}/template/storageClassName": GONE}, ANEW),
        ({f"{VOLUME}/template/accessModes": ["ReadWriteOnce"]}, ANEW),
        ({f"{VOLUME}/subPath": GONE}, ANEW),
        ({VOLUME: {"claimName": "existing-checkpoints", "subPath": "runs/full"}}, ANEW),
    ],
    ids=str,
)
def test_the_claim_that_is_made_may_grow_and_be_kept(jobs: Jobs, before: Change, change: Change, says: str) -> None:
    refusal = Existing(jobs, MADE | before).refusal(change)
    assert says in refusal
    assert bool(says) == bool(refusal)


@pytest.mark.parametrize(
    ("before", "replicas"), [(RUNNING, 8), (RUNNING, 2), ({"elastic": GONE, "suspend": True}, 4)], ids=str
)
def test_scaling_within_the_bounds(api: Api, jobs: Jobs, before: Change, replicas: int) -> None:
    Existing(jobs, before)
    path = f"{jobs.path}/existing/scale"
    assert api.get(path)["spec"]["replicas"] == 3
    assert api.merge(path, {"spec": {"replicas": replicas}})["spec"]["replicas"] == replicas
    assert jobs.get("existing")["spec"]["workers"]["replicas"] == replicas


@pytest.mark.parametrize(
    ("before", "replicas", "says"),
    [
        (RUNNING, 9, "choose a number between them"),
        (RUNNING, 0, "greater than or equal to 1"),
        (RUNNING | {"elastic": GONE}, 4, "set elastic.minReplicas and maxReplicas, or suspend it first"),
    ],
    ids=str,
)
def test_scaling_past_the_bounds(api: Api, jobs: Jobs, before: Change, replicas: int, says: str) -> None:
    Existing(jobs, before)
    with pytest.raises(ApiFailure) as refused:
        api.merge(f"{jobs.path}/existing/scale", {"spec": {"replicas": replicas}})
    assert says in str(refused.value)
    assert jobs.get("existing")["spec"]["workers"]["replicas"] == 3
