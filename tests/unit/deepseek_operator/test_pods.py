"""What of a pod is decided by: whose it is, how far it is, and why it ended."""

from __future__ import annotations

from typing import Any

import pytest
from deepseek_operator.decide.types import Pod
from deepseek_operator.pods import own_heads, own_pods, strip

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


def init(name: str = "fetch", **state: Any) -> dict[str, Any]:
    return {
        "initContainerStatuses": [{"name": "first", "state": {"terminated": {"exitCode": 0}}}, {"name": name} | state]
    }


INITIALIZING = container(waiting={"reason": "PodInitializing"})
UNSCHEDULED = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (
            INITIALIZING | init(state={"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}),
            (None, "ImagePullBackOff", "no such image", "fetch"),
        ),
        (
            INITIALIZING | init(state={"waiting": {"reason": "CreateContainerConfigError", "message": "no secret"}}),
            (None, "CreateContainerConfigError", "no secret", "fetch"),
        ),
        (
            INITIALIZING
            | init(
                state={"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
                lastState={"terminated": {"exitCode": 3, "message": "no bucket"}},
            ),
            (None, "CrashLoopBackOff", "back-off 10s; it ended with exit status 3: no bucket", "fetch"),
        ),
        (
            INITIALIZING | init(state={"terminated": {"exitCode": 2, "reason": "Error", "message": "boom"}}),
            (2, "Error", "boom", "fetch"),
        ),
        (
            INITIALIZING | init(state={"terminated": {"exitCode": 137, "reason": "OOMKilled"}}),
            (137, "OOMKilled", "", "fetch"),
        ),
        (INITIALIZING | init(state={"running": {}}), (None, "PodInitializing", "", "")),
        (init(state={"waiting": {"reason": "PodInitializing"}}), (None, "PodInitializing", "", "fetch")),
        (
            container(waiting={"reason": "CreateContainerConfigError", "message": 'configmap "c" not found'}),
            (None, "CreateContainerConfigError", 'configmap "c" not found', ""),
        ),
        (
            container(running={}) | init("proxy", state={"waiting": {"reason": "CrashLoopBackOff"}}),
            (None, "CrashLoopBackOff", "", "proxy"),
        ),
        (
            container(terminated={"exitCode": 1}) | init("proxy", state={"terminated": {"exitCode": 143}}),
            (1, "", "", ""),
        ),
        (
            container(terminated={"exitCode": 0}) | init("proxy", state={"terminated": {"exitCode": 143}}),
            (0, "", "", ""),
        ),
        (INITIALIZING | {"conditions": [UNSCHEDULED]}, (None, "Unschedulable", "0/3 nodes", "")),
        (
            {"conditions": [UNSCHEDULED | {"reason": "SchedulingGated", "message": "by a queue"}]},
            (None, "SchedulingGated", "by a queue", ""),
        ),
        (INITIALIZING | {"reason": "Evicted", "message": "disk"}, (None, "Evicted", "disk", "")),
    ],
)
def test_all_containers_are_looked_at(status: dict[str, Any], expected: tuple[int | None, str, str, str]) -> None:
    pod = strip(raw_pod(**status))
    assert pod is not None
    assert (pod.exit_code, pod.reason, pod.message, pod.container) == expected


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
    assert pod.gone_by is not None
    assert (pod.gone_by.year, pod.node_lost) == (2026, False)


ENDED = {"terminated": {"exitCode": 1, "reason": "Error"}}
DONE = {"terminated": {"exitCode": 0, "reason": "Completed"}}


@pytest.mark.parametrize(
    ("phase", "worker", "expected"),
    [
        ("Running", {"running": {}}, "Running"),
        ("Running", DONE, "Succeeded"),
        ("Running", ENDED, "Failed"),
        ("Pending", ENDED, "Failed"),
        ("Failed", DONE, "Failed"),
        ("Succeeded", DONE, "Succeeded"),
        ("Unknown", ENDED, "Unknown"),
    ],
)
def test_the_workers_end_is_the_pods_while_sidecars_are_still_stopping(
    phase: str, worker: dict[str, Any], expected: str
) -> None:
    sidecar = {"initContainerStatuses": [{"name": "uploader", "state": {"running": {}}}]}
    pod = strip(raw_pod(**{**container(**worker), **sidecar, "phase": phase}))
    assert pod is not None
    assert pod.phase == expected


def test_a_sidecars_end_is_not_the_pods() -> None:
    status: dict[str, Any] = {
        "containerStatuses": [{"name": "other", "state": ENDED}, {"name": "worker", "state": {"running": {}}}]
    }
    pod = strip(raw_pod(phase="Running", **status))
    assert pod is not None
    assert pod.phase == "Running"


# -- the raylet beside the worker, and the head --------------------------------------------------------------------

UNREADY = [{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "False"}]
LOST = [{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "True"}]
RESTARTED = {"waiting": {"reason": "CrashLoopBackOff"}, "lastState": ENDED}
UP: dict[str, Any] = {"running": {}}


def beside_raylet(raylet: dict[str, Any], worker: dict[str, Any], conditions: list[Any], *, ready: bool = True) -> Pod:
    raw = raw_pod(
        phase="Running",
        conditions=conditions,
        initContainerStatuses=[
            {"name": "fetch", "ready": True, "state": DONE},
            {"name": "ray", "ready": "running" in raylet, "state": raylet},
        ],
        containerStatuses=[{"name": "worker", "ready": ready, "state": worker}],
    )
    raw["spec"]["initContainers"] = [{"name": "fetch"}, {"name": "ray"}]
    pod = strip(raw)
    assert pod is not None
    return pod


@pytest.mark.parametrize("raylet", [ENDED, RESTARTED, {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}])
def test_a_raylet_that_ended_is_nothing_but_a_raylet_that_ended(raylet: dict[str, Any]) -> None:
    pod = beside_raylet(raylet, UP, UNREADY)
    assert (pod.phase, pod.ready, pod.raylet) == ("Running", True, False)
    assert (pod.exit_code, pod.reason, pod.container) == (None, "", "")


@pytest.mark.parametrize(
    ("raylet", "ready", "conditions"),
    [(ENDED, False, UNREADY), (UP, False, UNREADY), (UP, True, LOST)],
    ids=["both", "the worker alone", "its node is lost"],
)
def test_a_worker_that_is_not_ready_is_not_made_so_by_its_raylet(
    raylet: dict[str, Any], ready: bool, conditions: list[Any]
) -> None:
    assert not beside_raylet(raylet, UP, conditions, ready=ready).ready


def test_a_raylet_that_keeps_the_worker_from_starting_is_told() -> None:
    pod = beside_raylet(
        {"waiting": {"reason": "ImagePullBackOff"}}, {"waiting": {"reason": "PodInitializing"}}, UNREADY, ready=False
    )
    assert (pod.reason, pod.container, pod.raylet, pod.ready) == ("ImagePullBackOff", "ray", False, False)


@pytest.mark.parametrize(("worker", "phase"), [(DONE, "Succeeded"), (ENDED, "Failed")])
def test_the_workers_end_counts_whatever_its_raylet_does(worker: dict[str, Any], phase: str) -> None:
    pod = beside_raylet({"terminated": {"exitCode": 137, "reason": "Error"}}, worker, UNREADY, ready=False)
    assert (pod.phase, pod.exit_code, pod.container) == (phase, worker["terminated"]["exitCode"], "")


def raw_head(number: str, uid: str = "job", **status: Any) -> dict[str, Any]:
    raw = raw_pod(**status)
    owner = [{**OWNER, "uid": uid}]
    raw["metadata"] |= {"name": f"j-ray-{number}", "labels": {f"{GROUP}/ray-head": number}, "ownerReferences": owner}
    return raw


def test_heads_are_the_jobs_own_in_their_order() -> None:
    ended = {"name": "ray", "state": {"terminated": {"exitCode": 1, "reason": "Error", "message": "no port"}}}
    failed = raw_head("2", phase="Failed", containerStatuses=[ended])
    heads = own_heads([failed, raw_head("1"), raw_head("3", uid="another"), raw_head("x"), raw_pod("0")], "job")
    assert [head.incarnation for head in heads] == [1, 2]
    assert (heads[1].phase, heads[1].exit_code, heads[1].message) == ("Failed", 1, "no port")
    assert own_pods([failed], "job") == ()
