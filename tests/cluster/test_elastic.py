"""Elastic jobs on a real API server: training goes on with the workers that there is room for."""

from __future__ import annotations

import json

import pytest
from support.api import Jobs
from support.eventually import eventually
from support.kubelet import Kubelet, found_no_room
from support.operators import OperatorProcess

pytestmark = pytest.mark.cluster
MEMBERSHIP = "training.deepseekjob.dev/membership"
SHRINK_S = 2


def submit(jobs: Jobs, name: str, replicas: int) -> None:
    jobs.submit(name, replicas, elastic={"minReplicas": 1, "maxReplicas": 4})


def gang(jobs: Jobs, name: str) -> list[str]:
    """The live pods of the present generation, in the order of their node ranks."""
    generation, live = jobs.status(name).get("generation"), set(jobs.live(name))
    texts = {pod["metadata"]["name"]: pod["metadata"].get("annotations", {}).get(MEMBERSHIP) for pod in jobs.pods(name)}
    told = {pod: json.loads(text) for pod, text in texts.items() if text and pod in live}
    present = {pod: part["nodeRank"] for pod, part in told.items() if part["generation"] == generation}
    return sorted(present, key=lambda pod: int(present[pod]))


def runs_with(jobs: Jobs, name: str, *workers: str) -> None:
    """The job comes to run with exactly these workers, given as slot-incarnation."""
    pods, ready = [f"{name}-worker-{worker}" for worker in workers], f"{len(workers)}/{len(workers)}"

    def runs() -> bool:
        status = jobs.status(name)
        return (status.get("state"), status.get("readyNodes")) == ("Running", ready) and gang(jobs, name) == pods

    eventually(
        runs,
        deadline_s=60,
        what=f"{name} runs with {pods}",
        describe=lambda: jobs.describe(name),
    )


def says(jobs: Jobs, name: str, words: str) -> None:
    def said() -> bool:
        conditions = jobs.status(name).get("conditions", [])
        return any(c["type"] == "PodsReady" and c["status"] == "True" and words in c["message"] for c in conditions)

    eventually(said, deadline_s=60, what=f"PodsReady says {words!r}", describe=lambda: jobs.describe(name))


def test_workers_join_as_there_is_room_for_them(jobs: Jobs, operator: OperatorProcess, kubelet: Kubelet) -> None:
    submit(jobs, "more", 2)
    runs_with(jobs, "more", "0-0", "1-0")
    kubelet.room = 2
    jobs.edit("more", workers={"replicas": 4})
    eventually(
        lambda: sum(map(found_no_room, jobs.pods("more"))) == 2,
        deadline_s=60,
        what="both newcomers find no room",
        describe=lambda: jobs.describe("more"),
    )
    assert gang(jobs, "more") == ["more-worker-0-0", "more-worker-1-0"]
    kubelet.room = 3
    runs_with(jobs, "more", "0-0", "1-0", "2-0")
    says(jobs, "more", "worker 3: Unschedulable: 0/1 nodes are available")
    status = jobs.status("more")
    assert (status["generation"], status["readyNodes"], status["standby"]) == (2, "3/3", [3])
    kubelet.room = 4
    runs_with(jobs, "more", "0-0", "1-0", "2-0", "3-0")
    status = jobs.status("more")
    assert (status["restarts"]["resize"], status["totalRestarts"], status["failures"]) == (2, 0, [])
    assert status.get("standby", []) == []


def test_a_worker_without_room_is_done_without(jobs: Jobs, operator: OperatorProcess, kubelet: Kubelet) -> None:
    submit(jobs, "less", 3)
    runs_with(jobs, "less", "0-0", "1-0", "2-0")
    jobs.edit("less", elastic={"shrinkAfterSeconds": SHRINK_S})
    kubelet.room = 2
    jobs.delete_pod("less-worker-1-0")
    runs_with(jobs, "less", "0-0", "2-0")
    status = jobs.status("less")
    assert (status["generation"], status["ranks"], status["standby"]) == (3, [0, 2], [1])
    assert "less-worker-1-1" in jobs.live("less"), "it is still asked for"
    kubelet.room = None
    runs_with(jobs, "less", "0-0", "2-0", "1-1")
    restarts = jobs.status("less")["restarts"]
    assert (restarts["infrastructure"], restarts["resize"]) == (1, 2)
    for pod in jobs.live("less"):
        kubelet.finish(pod)
    eventually(
        lambda: jobs.state("less") == "Succeeded",
        deadline_s=60,
        what="less succeeds",
        describe=lambda: jobs.describe("less"),
    )
