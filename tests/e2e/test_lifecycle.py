"""A job's life on real nodes: suspended and resumed, stopped by its deadline, deleted by its time to live, or waiting.

What a job waits for is asserted as people see it: in `kubectl get dsj -o wide`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.eventually import eventually
from support.kubectl import Kubectl, KubectlError
from support.runs import resumes, tiny_trainer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.usefixtures("operator")]

SHOWN_WITHIN_S = 15
"""How soon a job must say what it waits for."""


def training_job(name: str, image: str, claim: str, steps: int) -> dict[str, Any]:
    """A tiny model on two workers, saved each five steps."""
    return {
        "apiVersion": "training.deepseekjob.dev/v1alpha1",
        "kind": "DeepSeekJob",
        "metadata": {"name": name},
        "spec": {
            "workers": {
                "replicas": 2,
                "image": image,
                "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}},
            },
            "backend": "gloo",
            "trainer": tiny_trainer(steps=steps),
            "data": {"corpus": "chitchat"},
            "checkpoint": {"volume": {"claimName": claim}, "interval": {"steps": 5}},
        },
    }


def sleeping_job(name: str, image: str, seconds: int, **spec: Any) -> dict[str, Any]:
    """A script of the user's that sleeps, and ends on SIGTERM as any Python process does."""
    workers = {
        "image": image,
        "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}},
        "volumes": [{"name": "script", "mountPath": "/workspace", "configMap": {"name": "sleeper"}}],
    }
    return {
        "apiVersion": "training.deepseekjob.dev/v1alpha1",
        "kind": "DeepSeekJob",
        "metadata": {"name": name},
        "spec": {
            "backend": "gloo",
            "entrypoint": {"script": "/workspace/sleep.py", "args": [str(seconds)]},
            **spec,
            "workers": workers | spec.get("workers", {}),
        },
    }


SLEEPER = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "sleeper"},
    "data": {"sleep.py": "import sys, time\ntime.sleep(float(sys.argv[1]))\n"},
}


def wait(kubectl: Kubectl, what: str, deadline_s: float, probe: Callable[[], Any]) -> Any:
    """The probe's answer, once it is true; shows jobs and pods when it doesn't come."""

    def describe() -> str:
        return f"{kubectl.run('get', 'dsj', '-o', 'wide')}\n{kubectl.run('get', 'pods', '-o', 'wide')}"

    return eventually(probe, deadline_s=deadline_s, interval_s=0.3, describe=describe, what=what)


def suspend(kubectl: Kubectl, name: str, value: bool) -> None:
    """What a user types."""
    kubectl.run("patch", "dsj", name, "--type=merge", "-p", f'{{"spec":{{"suspend":{str(value).lower()}}}}}')


def live_pods(kubectl: Kubectl) -> list[str]:
    pods = kubectl.pods()
    return [p["metadata"]["name"] for p in pods if p["status"].get("phase") in ("Pending", "Running")]


def test_a_suspended_job_frees_its_nodes_and_goes_on_where_it_saved(
    kubectl: Kubectl, trainer_image: str, shared_claim: tuple[str, Path], with_data: Callable[[str], None]
) -> None:
    claim, volume = shared_claim
    with_data("paused")
    kubectl.apply(training_job("paused", trainer_image, claim, steps=400))

    def status() -> dict[str, Any]:
        found = kubectl.status("paused")
        assert found.get("state") != "Failed", yaml.safe_dump(found)
        return found

    wait(kubectl, "a checkpoint", 240, lambda: (status().get("checkpoint") or {}).get("step"))
    suspend(kubectl, "paused", True)
    kubectl.run("wait", "--for=condition=Suspended", "dsj/paused", "--timeout=90s", timeout_s=100)
    assert live_pods(kubectl) == []
    stopped = status()
    assert stopped["state"] == "Suspended"
    saved = stopped["checkpoint"]["step"]
    assert saved >= stopped["training"]["step"] - 1, "the pods went without saving what they had"

    suspend(kubectl, "paused", False)
    resumed = wait(
        kubectl,
        "training to go on",
        180,
        lambda: (s := status())["state"] == "Running" and s["attempt"] == 2 and s.get("restoredFrom") and s,
    )
    assert resumed["restoredFrom"]["step"] == resumes(volume / "paused")[-1]["step"] >= saved
    spent = {cause: count for cause, count in resumed["restarts"].items() if count}
    assert spent == {"resize": 1}, "suspending must not cost a budget"
    kubectl.run("delete", "dsj", "paused")


def test_the_active_deadline_does_not_count_the_time_suspended(kubectl: Kubectl, trainer_image: str) -> None:
    """Suspended for longer than the whole deadline, the job goes on; then the deadline ends it and frees its pod."""
    deadline_s = 25
    job = sleeping_job("late", trainer_image, 3600, lifecycle={"activeDeadlineSeconds": deadline_s})
    kubectl.apply(SLEEPER, job)
    wait(kubectl, "the job to run", 60, lambda: kubectl.status("late").get("state") == "Running")
    suspend(kubectl, "late", True)
    kubectl.run("wait", "--for=condition=Suspended", "dsj/late", "--timeout=60s", timeout_s=70)
    before = kubectl.status("late")["activeSeconds"]
    over = time.monotonic() + deadline_s
    wait(kubectl, "the deadline to pass", 90, lambda: time.monotonic() > over)
    assert kubectl.row("late")["STATE"] == "Suspended"

    suspend(kubectl, "late", False)
    wait(kubectl, "the job to run again", 60, lambda: kubectl.status("late").get("state") == "Running")
    assert before < deadline_s
    wait(kubectl, "the deadline to end it", 90, lambda: kubectl.status("late").get("reason") == "DeadlineExceeded")
    wait(kubectl, "its pod to go", 60, lambda: not live_pods(kubectl))
    row = kubectl.row("late", wide=True)
    assert (row["STATE"], row["REASON"]) == ("Failed", "DeadlineExceeded")


def test_a_finished_job_goes_when_its_time_is_over(kubectl: Kubectl, trainer_image: str) -> None:
    kubectl.apply(SLEEPER, sleeping_job("short", trainer_image, 1, lifecycle={"ttlSecondsAfterFinished": 10}))
    kubectl.run("wait", "--for=condition=Complete", "dsj/short", "--timeout=120s", timeout_s=130)

    def gone() -> bool:
        try:
            kubectl.run("get", "dsj", "short")
        except KubectlError as error:
            return "NotFound" in str(error)
        return False

    wait(kubectl, "the job to go", 60, gone)
    wait(kubectl, "its pods to go", 60, lambda: not kubectl.pods())


WAITING: dict[str, tuple[dict[str, Any], str]] = {
    "image": ({"workers": {"image": "registry.invalid/trainer:1"}}, "ImagePullError"),
    "unschedulable": ({"workers": {"nodeSelector": {"no-such-label": "anywhere"}}}, "Unschedulable"),
    "volume": ({"checkpoint": {"volume": {"claimName": "unbound"}}}, "VolumeNotBound"),
}


@pytest.mark.parametrize("case", WAITING)
def test_what_a_job_waits_for_is_shown_and_costs_nothing(kubectl: Kubectl, trainer_image: str, case: str) -> None:
    spec, reason = WAITING[case]
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "unbound"},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "none-such",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    kubectl.apply(SLEEPER, claim, sleeping_job("waits", trainer_image, 1, **spec))
    wait(
        kubectl,
        f"REASON {reason}",
        SHOWN_WITHIN_S,
        lambda: (row := kubectl.row("waits", wide=True))["REASON"] == reason and row["STATE"] == "Pending",
    )
    print(kubectl.run("get", "dsj", "waits", "-o", "wide"))
    status = kubectl.status("waits")
    assert status["totalRestarts"] == 0
    (ready,) = [c for c in status["conditions"] if c["type"] == "PodsReady"]
    assert ready["reason"] == reason
    assert "worker 0" in ready["message"]
