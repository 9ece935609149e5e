"""What of a pod is decided by: whose it is, how far it is, and why it ended."""

from __future__ import annotations

from typing import Any

import pytest
from deepseek_operator.pods import own_pods, strip

GROUP = "training.deepseekjob.dev"
OWNER = {"apiVersion": f"{GROUP}/v1alpha1", "kind": "DeepSeekJob", "name": "j", "uid": "job", "controller": True}


def raw_pod(slot: str = "0", incarnation: str = "0", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"j-worker-{slot}-{incarnation}",
            "uid": f"uid-{slot}-{incarnation}",
            "labels": {f"{GROUP}/slot": slot, f"{GROUP}/incarnation": incarnation},
            "ownerReferences": [OWNER],
        },
        "spec": {},
        "status": {"phase": "Pending", **status},
    }


def container(**state: Any) -> dict[str, Any]:
    return {"containerStatuses": [{"name": "sidecar", "state": {}}, {"name": "worker", "state": state}]}


def test_only_pods_that_the_job_controls_are_its_own() -> None:
    foreign = raw_pod("1")
    foreign["metadata"]["ownerReferences"] = []
    other = raw_pod("2")
    other["metadata"]["ownerReferences"] = [{**OWNER, "uid": "another job"}]
    odd = raw_pod("three")
    names = [pod.name for pod in own_pods([raw_pod("10"), foreign, other, odd, raw_pod("9", "1"), raw_pod("9")], "job")]
    assert names == ["j-worker-9-0", "j-worker-9-1", "j-worker-10-0"]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({}, (None, "", False)),
        (container(waiting={"reason": "ImagePullBackOff"}), (None, "ImagePullBackOff", False)),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]},
            (None, "Unschedulable", False),
        ),
        (container(terminated={"exitCode": 137, "reason": "OOMKilled"}), (137, "OOMKilled", False)),
        ({"phase": "Failed", "reason": "Evicted"}, (None, "Evicted", True)),
        (
            {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]},
            (None, "EvictionByEvictionAPI", True),
        ),
        (
            {"reason": "NodeShutdown", **container(terminated={"exitCode": 75, "reason": "Error"})},
            (75, "NodeShutdown", True),
        ),
    ],
)
def test_the_most_telling_reason_wins(status: dict[str, Any], expected: tuple[int | None, str, bool]) -> None:
    pod = strip(raw_pod(**status))
    assert pod is not None
    assert (pod.exit_code, pod.reason, pod.disrupted) == expected


def test_last_words_are_cut() -> None:
    pod = strip(raw_pod(**container(terminated={"exitCode": 1, "message": "x" * 100_000})))
    assert pod is not None
    assert len(pod.message) == 4096


def test_a_running_pod() -> None:
    raw = raw_pod(phase="Running", podIP="10.0.0.1", conditions=[{"type": "Ready", "status": "True"}])
    raw["spec"]["nodeName"] = "n"
    raw["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    pod = strip(raw)
    assert pod is not None
    assert (pod.phase, pod.ready, pod.ip, pod.node, pod.terminating) == ("Running", True, "10.0.0.1", "n", True)
