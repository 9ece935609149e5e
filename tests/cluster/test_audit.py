"""`dsj audit JOB` against a real API server, which enforces *restricted*; the node that runs its pod is played by the test."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from threading import Event

import pytest
from deepseek_client.beside.run import run
from deepseek_client.cli import main
from support.api import Api, Jobs, Object
from support.bad_manifests import changed, trainer_job
from support.errands import JOB, POD, account, ends, enforce_restricted, errand_pods, meanwhile
from support.eventually import eventually

pytestmark = pytest.mark.cluster

CHAIN = "ab" * 32
PROVEN = {"verdict": "proven", "step": 40, "chain_at": [40, CHAIN], "rows": [["verdict", "proven"], ["steps", "40"]]}


@pytest.fixture
def audited(api: Api, jobs: Jobs) -> Jobs:
    """A job with an audit, at step 40, in a namespace that enforces the restricted standard."""
    enforce_restricted(api, jobs)
    body = changed(
        trainer_job(), {"metadata/name": "job", "metadata/namespace": jobs.namespace, "spec/data/audit": True}
    )
    api.create(jobs.path, body)
    training = {"phase": "training", "step": 40, "chain": CHAIN}
    api.merge(f"{jobs.path}/job/status", {"status": {"state": "Running", "training": training}})
    return jobs


@pytest.fixture
def dsj(
    kubeconfig: Path, audited: Jobs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """The command in this process: its exit status and all that it printed."""
    monkeypatch.setenv("COLUMNS", "300")

    def call(*more: str, config: Path = kubeconfig) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main(["audit", "job", "-n", audited.namespace, "--kubeconfig", str(config), *more])
        out, err = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, out + err

    return call


def audit_pods(jobs: Jobs) -> list[Object]:
    return errand_pods(jobs, "audit")


ENDINGS: dict[str, tuple[str, int, str, int, str]] = {
    "proven": (json.dumps(PROVEN), 0, "Completed", 0, "chain of step 40: equal to the recomputed one"),
    "not proven": (json.dumps(PROVEN | {"verdict": "not proven"}), 1, "Error", 1, "equal to the recomputed one"),
    "another chain": (json.dumps(PROVEN | {"chain_at": [40, "cd" * 32]}), 0, "Completed", 1, "DIFFERS"),
    "unknown": (json.dumps(PROVEN | {"verdict": "unknown"}), 2, "Error", 2, "status"),
    "an older image": ("No module named deepseek_trainer.data.audit", 1, "Error", 2, "its last line: No module named"),
    "too little memory": ("", 137, "OOMKilled", 2, "needs more memory than 1Gi; give it more with --memory"),
    "no last words": ("", 1, "Error", 2, "ended without an answer: Error"),
}


@pytest.mark.parametrize(("message", "code", "reason", "exit_status", "says"), ENDINGS.values(), ids=ENDINGS)
def test_the_answer_of_the_pod_is_the_commands(
    dsj: Callable[..., tuple[int, str]],
    audited: Jobs,
    message: str,
    code: int,
    reason: str,
    exit_status: int,
    says: str,
) -> None:
    with meanwhile(audited, "audit", ends(audited, "audit", message, code, reason)):
        status, said = dsj()
    assert (status, says in said) == (exit_status, True), said
    assert audit_pods(audited) == []


def test_a_pod_that_does_not_start_is_told_with_the_reason(
    dsj: Callable[..., tuple[int, str]], audited: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = {
        "metadata": {"name": "checkpoints"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    audited.api.create(f"/api/v1/namespaces/{audited.namespace}/persistentvolumeclaims", claim)
    full = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "2 node(s) had conflict"}

    refused, looks = Event(), count()

    def refuse(pod: Object) -> None:
        audited.api.merge(f"{audited.pods_path}/{pod['metadata']['name']}/status", {"status": {"conditions": [full]}})
        refused.set()

    def clock() -> float:
        """The time is over once the command has seen the refusal: not yet at its first look, which may have been before."""
        return math.inf if refused.is_set() and next(looks) > 0 else 0.0

    monkeypatch.setattr("deepseek_client.audit.cluster.run", partial(run, clock=clock))
    with meanwhile(audited, "audit", refuse):
        status, said = dsj()
    assert status == 2
    assert "did not start in time: Unschedulable: 2 node(s) had conflict" in said
    assert "claim checkpoints is ReadWriteOnce" in said
    assert "dsj suspend job" in said
    assert audit_pods(audited) == []


def test_a_pod_that_somebody_deletes_is_told(dsj: Callable[..., tuple[int, str]], audited: Jobs) -> None:
    with meanwhile(audited, "audit", lambda pod: audited.delete_pod(pod["metadata"]["name"])):
        status, said = dsj()
    assert status == 2
    assert "was deleted by somebody" in said


def test_without_the_right_to_make_pods_it_is_told_what_is_needed(
    dsj: Callable[..., tuple[int, str]], audited: Jobs, tmp_path: Path
) -> None:
    status, said = dsj(config=account(audited, tmp_path, JOB))
    assert status == 2
    assert "cannot create resource" in said
    assert "needs the right to create, get and delete pods in namespace" in said


def test_nothing_else_than_the_named_rights_is_needed(
    dsj: Callable[..., tuple[int, str]], audited: Jobs, tmp_path: Path
) -> None:
    config = account(audited, tmp_path, JOB, POD | {"verbs": ["create", "get", "delete"]})
    with meanwhile(audited, "audit", ends(audited, "audit", json.dumps(PROVEN))):
        assert dsj(config=config)[0] == 0
    assert "did not start in time: nobody says why" in dsj("--timeout", "1", config=config)[1]
    assert audit_pods(audited) == []


@pytest.mark.parametrize(("number", "exit_status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_pod_is_removed_when_the_command_is_stopped(
    audited: Jobs, kubeconfig: Path, number: signal.Signals, exit_status: int
) -> None:
    command = [sys.executable, "-m", "deepseek_client.cli", "audit", "job", "-n", audited.namespace]
    process = subprocess.Popen(
        command, env=os.environ | {"KUBECONFIG": str(kubeconfig)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        eventually(lambda: audit_pods(audited), deadline_s=60, what="the audit's pod")
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == exit_status, output
    assert b"Traceback" not in output
    assert audit_pods(audited) == []
