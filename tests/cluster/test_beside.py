"""`dsj checkpoints JOB` and `dsj export JOB TARGET` against a real API server, which enforces *restricted*; the test is the node."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from deepseek_client.cli import main
from support.api import Api, Jobs, Object
from support.bad_manifests import changed, trainer_job
from support.errands import JOB, POD, account, ends, enforce_restricted, errand_pods, meanwhile

pytestmark = pytest.mark.cluster

ROW = {"step": 40, "state": "whole", "verified": True, "time": "2026-01-01T00:00:00Z", "bytes": 7, "worldSize": 2}
LISTED = {"checkpoints": [ROW | {"samples": 240, "tokens": 7680, "loss": 2.5, "problem": None}], "leftOut": 3}
Dsj = Callable[..., tuple[int, str]]


@pytest.fixture
def training(api: Api, jobs: Jobs) -> Jobs:
    """A job whose claim is made from a template, in a namespace that enforces the restricted standard."""
    enforce_restricted(api, jobs)
    volume = {"template": {"size": "1Gi"}}
    where = {"metadata/name": "job", "metadata/namespace": jobs.namespace, "spec/checkpoint/volume": volume}
    api.create(jobs.path, changed(trainer_job(), where))
    return jobs


@pytest.fixture
def dsj(kubeconfig: Path, training: Jobs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Dsj:
    """A command in this process: its exit status and all that it printed."""
    monkeypatch.setenv("COLUMNS", "300")

    def call(*command: str, config: Path = kubeconfig) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main([*command, "-n", training.namespace, "--kubeconfig", str(config)])
        out, err = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, out + err

    return call


def mounts(pod: Object) -> dict[str, tuple[str, bool]]:
    """Where the pod sees which claim, and whether read-only."""
    claims = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in pod["spec"]["volumes"] if "emptyDir" not in v}
    found = pod["spec"]["containers"][0]["volumeMounts"]
    return {m["mountPath"]: (claims[m["name"]], m.get("readOnly", False)) for m in found if m["name"] in claims}


def test_checkpoints_are_listed_as_the_pod_says(dsj: Dsj, training: Jobs) -> None:
    end = ends(training, "checkpoints", json.dumps(LISTED))
    with meanwhile(training, "checkpoints", end) as seen:
        status, said = dsj("checkpoints", "job", "--verify")
    assert status == 0, said
    assert "7680" in said
    assert mounts(seen[0]) == {"/checkpoints": ("job-checkpoints", True)}
    assert seen[0]["spec"]["containers"][0]["command"][-1] == "--verify"
    assert errand_pods(training, "checkpoints") == []


def test_only_to_trust_one_the_volume_is_written_to(dsj: Dsj, training: Jobs) -> None:
    end = ends(training, "checkpoints", json.dumps({"error": "/checkpoints/job is no folder"}), 65, "Error")
    with meanwhile(training, "checkpoints", end) as seen:
        status, said = dsj("checkpoints", "job", "--trust", "40")
    assert (status, "is no folder" in said) == (2, True), said
    assert mounts(seen[0]) == {"/checkpoints": ("job-checkpoints", False)}


EXPORTS: dict[str, tuple[tuple[str, ...], str, int, str, int, dict[str, tuple[str, bool]]]] = {
    "to the same claim": (
        ("--step", "40"),
        json.dumps({"done": "step 40 is in /checkpoints/models/mine"}),
        0,
        "step 40 is in /checkpoints/models/mine of claim job-checkpoints",
        0,
        {"/checkpoints": ("job-checkpoints", False)},
    ),
    "to another claim": (
        ("--claim", "models"),
        json.dumps({"done": "step 40 is in /target/models/mine"}),
        0,
        "of claim models",
        0,
        {"/checkpoints": ("job-checkpoints", True), "/target": ("models", False)},
    ),
    "nothing": (
        (),
        json.dumps({"error": "/checkpoints/job has no checkpoint"}),
        65,
        "dsj: /checkpoints/job has no checkpoint",
        1,
        {"/checkpoints": ("job-checkpoints", False)},
    ),
    "by an older image": (
        (),
        "No module named deepseek_trainer.checkpoint.export",
        1,
        "its last line: No module named",
        2,
        {"/checkpoints": ("job-checkpoints", False)},
    ),
}


@pytest.mark.parametrize(("more", "message", "code", "says", "status", "mounted"), EXPORTS.values(), ids=EXPORTS)
def test_an_export_ends_as_its_pod_says(
    dsj: Dsj,
    training: Jobs,
    tmp_path: Path,
    more: tuple[str, ...],
    message: str,
    code: int,
    says: str,
    status: int,
    mounted: dict[str, tuple[str, bool]],
) -> None:
    end = ends(training, "export", message, code, "Completed" if code == 0 else "Error")
    config = account(training, tmp_path, JOB, POD | {"verbs": ["create", "get", "delete"]})
    with meanwhile(training, "export", end) as seen:
        ended, said = dsj("export", "job", "models/mine", *more, config=config)
    assert (ended, says in said) == (status, True), said
    assert mounts(seen[0]) == mounted
    assert errand_pods(training, "export") == []


def test_too_little_memory_is_told_with_what_takes_it(dsj: Dsj, training: Jobs) -> None:
    with meanwhile(training, "export", ends(training, "export", "", 137, "OOMKilled")):
        status, said = dsj("export", "job", "models/mine", "--memory", "2Gi")
    assert status == 2
    assert "needs more memory than 2Gi; give it more with --memory (a file of 4 GiB and one layer)" in said
