"""A job's life on real nodes: suspended and resumed, stopped by its deadline, deleted by its time to live, or waiting.

What a job waits for is asserted as people see it: in `kubectl get dsj -o wide`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.eventually import eventually, now
from support.kubectl import Kubectl, KubectlError
from support.running import ENDLESS
from support.runs import resumes, tiny_trainer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), pytest.mark.usefixtures("operator")]

SHOWN_WITHIN_S = 120
"""By then a job says what it waits for; how soon it did is printed."""
LONG_S = 3600
"""A deadline that no test gets to."""
SUSPENDED_S = 10


def training_job(name: str, image: str, claim: str) -> dict[str, Any]:
    """A tiny model on two workers, saved each five steps; it trains without an end."""
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
            "trainer": tiny_trainer(steps=ENDLESS),
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
    patch(kubectl, name, suspend=value)


def patch(kubectl: Kubectl, name: str, **spec: Any) -> None:
    """What a user types."""
    kubectl.run("patch", "dsj", name, "--type=merge", "-p", json.dumps({"spec": spec}))


def live_pods(kubectl: Kubectl) -> list[str]:
    pods = kubectl.pods()
    return [p["metadata"]["name"] for p in pods if p["status"].get("phase") in ("Pending", "Running")]


def test_a_suspended_job_frees_its_nodes_and_goes_on_where_it_saved(
    kubectl: Kubectl, trainer_image: str, shared_claim: tuple[str, Path], with_data: Callable[[str], None]
) -> None:
    claim, volume = shared_claim
    with_data("paused")
    kubectl.apply(training_job("paused", trainer_image, claim))

    def status() -> dict[str, Any]:
        found = kubectl.status("paused")
        assert found.get("state") != "Failed", yaml.safe_dump(found)
        return found

    wait(kubectl, "a checkpoint", 240, lambda: (status().get("checkpoint") or {}).get("step"))
    suspend(kubectl, "paused", True)
    kubectl.run("wait", "--for=condition=Suspended", "dsj/paused", "--timeout=180s", timeout_s=200)
    assert live_pods(kubectl) == []
    stopped = status()
    assert stopped["state"] == "Suspended"
    # The last words of the pods may not have come to the status: the volume is what they saved.
    saved = max(int(path.parent.name.removeprefix("step-")) for path in (volume / "paused").glob("step-*/COMMITTED"))
    assert saved >= stopped["training"]["step"], "the pods went without saving what they had"

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
    """Time goes by while it is suspended, and none of it is counted; a deadline that is over ends it and frees its pod."""
    job = sleeping_job("late", trainer_image, LONG_S, lifecycle={"activeDeadlineSeconds": LONG_S})
    kubectl.apply(SLEEPER, job)
    wait(kubectl, "the job to run", 180, lambda: kubectl.status("late").get("state") == "Running")
    suspend(kubectl, "late", True)
    kubectl.run("wait", "--for=condition=Suspended", "dsj/late", "--timeout=180s", timeout_s=200)
    before, began = kubectl.status("late"), now()
    assert "activeSince" not in before
    wait(kubectl, "time to pass", 60, lambda: now() - began > SUSPENDED_S)
    after = kubectl.status("late")
    assert (after["state"], after["activeSeconds"]) == ("Suspended", before["activeSeconds"])

    suspend(kubectl, "late", False)
    resumed = wait(
        kubectl, "the job to run again", 180, lambda: (s := kubectl.status("late"))["state"] == "Running" and s
    )
    counted = datetime.fromisoformat(resumed["activeSince"]).timestamp()
    assert resumed["activeSeconds"] == before["activeSeconds"]
    assert counted >= began + SUSPENDED_S - 1, f"it counts from {resumed['activeSince']}, before it was resumed"
    patch(kubectl, "late", lifecycle={"activeDeadlineSeconds": 1})
    wait(kubectl, "the deadline to end it", 120, lambda: kubectl.status("late").get("reason") == "DeadlineExceeded")
    wait(kubectl, "its pod to go", 120, lambda: not live_pods(kubectl))
    row = kubectl.row("late", wide=True)
    assert (row["STATE"], row["REASON"]) == ("Failed", "DeadlineExceeded")


def test_a_finished_job_goes_when_its_time_is_over(kubectl: Kubectl, trainer_image: str) -> None:
    """It gets its time to live when it has ended: it could be gone before it is seen to have."""
    kubectl.apply(SLEEPER, sleeping_job("short", trainer_image, 1))
    kubectl.run("wait", "--for=condition=Complete", "dsj/short", "--timeout=300s", timeout_s=320)
    patch(kubectl, "short", lifecycle={"ttlSecondsAfterFinished": 3})

    def gone() -> bool:
        try:
            kubectl.run("get", "dsj", "short")
        except KubectlError as error:
            return "NotFound" in str(error)
        return False

    wait(kubectl, "the job to go", 120, gone)
    wait(kubectl, "its pods to go", 120, lambda: not kubectl.pods())


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
    began = now()
    kubectl.apply(SLEEPER, claim, sleeping_job("waits", trainer_image, 1, **spec))
    wait(
        kubectl,
        f"REASON {reason}",
        SHOWN_WITHIN_S,
        lambda: (row := kubectl.row("waits", wide=True))["REASON"] == reason and row["STATE"] == "Pending",
    )
    print(f"{reason} is shown after {now() - began:.1f} s\n{kubectl.run('get', 'dsj', 'waits', '-o', 'wide')}")
    status = kubectl.status("waits")
    assert status["totalRestarts"] == 0
    (ready,) = [c for c in status["conditions"] if c["type"] == "PodsReady"]
    assert ready["reason"] == reason
    assert "worker 0" in ready["message"]
