"""What a job waits for, and what its workers die of: with a real API server's objects."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from support.api import Jobs
from support.eventually import eventually
from support.kubelet import Kubelet
from support.operators import OperatorProcess

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
NO_BACKOFF = {"initialSeconds": 0, "maxSeconds": 0}


def container(reason: str, message: str) -> dict[str, Any]:
    return {
        "ready": False,
        "restartCount": 0,
        "image": "x",
        "imageID": "",
        "state": {"waiting": {"reason": reason, "message": message}},
    }


def worker_waits(reason: str, message: str) -> dict[str, Any]:
    return {"containerStatuses": [{"name": "worker"} | container(reason, message)]}


def unschedulable(message: str) -> dict[str, Any]:
    return {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]}


WAITS: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "image",
        worker_waits("ImagePullBackOff", 'Back-off pulling image "example.org/trainer:1"'),
        "ImagePullError",
        'worker 0: ImagePullBackOff: Back-off pulling image "example.org/trainer:1"',
    ),
    (
        "secret",
        worker_waits("CreateContainerConfigError", 'secret "token" not found'),
        "CreateContainerConfigError",
        'worker 0: CreateContainerConfigError: secret "token" not found',
    ),
    (
        "gpus",
        unschedulable("0/2 nodes are available: 2 Insufficient nvidia.com/gpu."),
        "Unschedulable",
        "worker 0: Unschedulable: 0/2 nodes are available: 2 Insufficient nvidia.com/gpu.",
    ),
    (
        "claim",
        unschedulable('0/2 nodes are available: persistentvolumeclaim "ckpt" not found.'),
        "VolumeNotBound",
        'worker 0: Unschedulable: 0/2 nodes are available: persistentvolumeclaim "ckpt" not found.',
    ),
    (
        "init",
        {"initContainerStatuses": [{"name": "fetch"} | container("ErrImagePull", "no such image")]},
        "ImagePullError",
        "worker 0, container fetch: ErrImagePull: no such image",
    ),
]


@pytest.mark.parametrize(("name", "status", "reason", "message"), WAITS, ids=[case[0] for case in WAITS])
def test_what_is_waited_for_is_told_costs_nothing_and_passes(
    jobs: Jobs, operator: OperatorProcess, name: str, status: dict[str, Any], reason: str, message: str
) -> None:
    jobs.submit(name, replicas=1)
    pod = f"{name}-worker-0-0"
    eventually(lambda: pod in jobs.live(name), deadline_s=60, what="the pod", describe=operator.tail)
    jobs.api.merge(f"{jobs.pods_path}/{pod}/status", {"status": status})
    eventually(
        lambda: jobs.status(name).get("reason") == reason,
        deadline_s=60,
        what=reason,
        describe=partial(jobs.describe, name),
    )
    told = jobs.status(name)
    ready = next(condition for condition in told["conditions"] if condition["type"] == "PodsReady")
    assert (ready["status"], ready["reason"], ready["message"]) == ("False", reason, message)
    assert (told["state"], told["attempt"], told["totalRestarts"]) == ("Pending", 1, 0)
    jobs.api.merge(f"{jobs.pods_path}/{pod}/status", {"status": {"initContainerStatuses": None, "conditions": None}})
    Kubelet(jobs.api, jobs.namespace).sync()
    eventually(
        lambda: jobs.status(name).get("readyNodes") == "1/1",
        deadline_s=60,
        what="ready after all",
        describe=partial(jobs.describe, name),
    )
    assert jobs.status(name)["totalRestarts"] == 0


def _fail(jobs: Jobs, kubelet: Kubelet, name: str, incarnation: int, **ending: Any) -> None:
    pod = f"{name}-worker-0-{incarnation}"
    eventually(
        lambda: pod in jobs.live(name) and jobs.status(name).get("readyNodes") == "1/1",
        deadline_s=60,
        what=f"{pod} runs",
        describe=partial(jobs.describe, name),
    )
    kubelet.finish(pod, **ending)


def test_out_of_memory_spends_its_own_budget(jobs: Jobs, operator: OperatorProcess, kubelet: Kubelet) -> None:
    jobs.submit("big", replicas=1, recovery={"backoff": NO_BACKOFF})
    for incarnation in range(2):
        _fail(jobs, kubelet, "big", incarnation, exit_code=137, reason="OOMKilled")
    eventually(
        lambda: jobs.state("big") == "Failed", deadline_s=60, what="Failed", describe=partial(jobs.describe, "big")
    )
    status = jobs.status("big")
    assert status["reason"] == "RestartLimitExceeded"
    failed = next(condition for condition in status["conditions"] if condition["type"] == "Failed")
    assert "the budget of cause OutOfMemory is spent (recovery.budgets.outOfMemory is 1)" in failed["message"]
    assert [(f["cause"], f["reason"], f["exitCode"], f["signal"], f["attempt"]) for f in status["failures"]] == [
        ("OutOfMemory", "OOMKilled", 137, 9, 2),
        ("OutOfMemory", "OOMKilled", 137, 9, 1),
    ]
    assert (status["restarts"]["outOfMemory"], status["restarts"]["application"]) == (1, 0)


def test_node_on_which_workers_fail_again_is_avoided(jobs: Jobs, operator: OperatorProcess, kubelet: Kubelet) -> None:
    jobs.submit("ecc", replicas=1, recovery={"backoff": NO_BACKOFF})
    for incarnation in range(2):
        message = "torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered"
        _fail(jobs, kubelet, "ecc", incarnation, exit_code=1, message=message)
    eventually(
        lambda: "ecc-worker-0-2" in jobs.live("ecc"),
        deadline_s=60,
        what="the third pod",
        describe=partial(jobs.describe, "ecc"),
    )
    [excluded] = jobs.status("ecc")["excludedNodes"]
    assert excluded["node"] == "node-0"
    pod = next(pod for pod in jobs.pods("ecc") if pod["metadata"]["name"] == "ecc-worker-0-2")
    affinity = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    [term] = affinity["nodeSelectorTerms"]
    assert term["matchFields"] == [{"key": "metadata.name", "operator": "NotIn", "values": ["node-0"]}]
