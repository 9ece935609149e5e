"""The life of a job with a real API server and a fake kubelet: suspended, resized, timed out, waited for."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
from support.api import Jobs
from support.eventually import eventually
from support.kubectl import Kubectl, KubectlError
from support.kubelet import Kubelet
from support.operators import OperatorProcess

pytestmark = pytest.mark.cluster
ELASTIC = {"elastic": {"minReplicas": 1, "maxReplicas": 4}}


def test_suspending_frees_the_pods_and_resuming_makes_new_ones(
    jobs: Jobs, operator: OperatorProcess, kubelet: Kubelet
) -> None:
    jobs.submit("rest", replicas=2)
    jobs.reaches("rest", "Running")
    jobs.edit("rest", suspend=True)
    status = jobs.reaches("rest", "Suspended")
    assert jobs.pods("rest") == []
    assert (status["readyNodes"], status.get("activeSince")) == ("0/2", None)
    jobs.edit("rest", suspend=False)
    status = jobs.reaches("rest", "Running")
    assert jobs.live("rest") == ["rest-worker-0-1", "rest-worker-1-1"]
    assert (status["generation"], status["attempt"], status["restarts"]["resize"]) == (2, 2, 1)
    assert (status["totalRestarts"], status["failures"]) == (0, [])


def test_a_job_that_is_born_suspended_has_nothing(jobs: Jobs, operator: OperatorProcess, kubelet: Kubelet) -> None:
    jobs.submit("born", suspend=True)
    jobs.reaches("born", "Suspended")
    assert jobs.pods("born") == []
    assert jobs.api.find(f"/api/v1/namespaces/{jobs.namespace}/services/born-workers") is None
    jobs.edit("born", suspend=False, workers={"replicas": 3})
    status = jobs.reaches("born", "Running")
    assert (status["attempt"], status["readyNodes"], status["restarts"]["resize"]) == (1, "3/3", 0)


def test_kubectl_scale(jobs: Jobs, operator: OperatorProcess, kubelet: Kubelet, kubectl: Kubectl) -> None:
    mine = replace(kubectl, namespace=jobs.namespace)
    jobs.submit("size", replicas=2, **ELASTIC)
    jobs.reaches("size", "Running")
    survivors = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in jobs.pods("size")}
    for replicas, names in ((4, [0, 1, 2, 3]), (1, [0])):
        mine.run("scale", "dsj", "size", f"--replicas={replicas}")
        workers = [f"size-worker-{slot}-0" for slot in names]
        eventually(
            lambda ready=f"{replicas}/{replicas}", workers=workers: (  # type: ignore[misc]
                jobs.status("size").get("readyNodes") == ready and jobs.live("size") == workers
            ),
            deadline_s=60,
            what=f"{replicas} workers",
            describe=lambda: jobs.describe("size"),
        )
        scale = mine.json("get", "dsj", "size", "--subresource=scale")
        assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (replicas, replicas)
        found = mine.items("pods", "-l", scale["status"]["selector"])
        assert {pod["metadata"]["name"] for pod in found} >= set(jobs.live("size"))
    kept = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in jobs.pods("size")}
    assert kept["size-worker-0-0"] == survivors["size-worker-0-0"]
    assert jobs.status("size")["restarts"]["resize"] == 2
    with pytest.raises(KubectlError, match=r"outside of elastic\.minReplicas and maxReplicas"):
        mine.run("scale", "dsj", "size", "--replicas=5")


def test_the_active_deadline_counts_over_a_suspension_and_not_in_it(
    jobs: Jobs, operator: OperatorProcess, kubelet: Kubelet
) -> None:
    def limit(seconds: int) -> None:
        jobs.edit("timed", lifecycle={"activeDeadlineSeconds": seconds})

    jobs.submit("timed", replicas=2, lifecycle={"activeDeadlineSeconds": 3600})
    began = time.monotonic()
    jobs.reaches("timed", "Running")
    jobs.edit("timed", suspend=True)
    limit_s = jobs.reaches("timed", "Suspended")["activeSeconds"] + 2
    limit(limit_s)
    eventually(lambda: time.monotonic() > began + limit_s + 1, deadline_s=60, what="longer than the deadline")
    jobs.reaches("timed", "Suspended")
    limit(3600)  # so that it gets to run, however long that takes
    jobs.edit("timed", suspend=False)
    jobs.reaches("timed", "Running")
    limit(limit_s)
    status = jobs.reaches("timed", "Failed")
    assert (status["reason"], status["attempt"]) == ("DeadlineExceeded", 2)
    assert limit_s <= status["activeSeconds"] < time.monotonic() - began
    eventually(lambda: jobs.live("timed") == [], deadline_s=60, what="no pod", describe=lambda: jobs.describe("timed"))


def test_a_start_that_takes_too_long_says_what_was_waited_for(jobs: Jobs, operator: OperatorProcess) -> None:
    jobs.submit("never", replicas=2, lifecycle={"startDeadlineSeconds": 2})
    status = jobs.reaches("never", "Failed")
    assert status["reason"] == "StartDeadlineExceeded"
    [failed] = [c for c in status["conditions"] if c["type"] == "Failed"]
    assert "0 of 2 worker pods are ready" in failed["message"]
    eventually(lambda: jobs.live("never") == [], deadline_s=60, what="no pod", describe=lambda: jobs.describe("never"))


def test_node_rank_zero_decides_and_nothing_is_left(jobs: Jobs, operator: OperatorProcess, kubelet: Kubelet) -> None:
    jobs.submit("zero", replicas=3, lifecycle={"successPolicy": "RankZero", "cleanPodPolicy": "All"})
    jobs.reaches("zero", "Running")
    kubelet.finish("zero-worker-0-0")
    assert jobs.reaches("zero", "Succeeded")["reason"] == "RankZeroSucceeded"
    eventually(lambda: jobs.pods("zero") == [], deadline_s=60, what="no pod", describe=lambda: jobs.describe("zero"))


def test_kubectl_wait_for_each_condition(
    jobs: Jobs, operator: OperatorProcess, kubelet: Kubelet, kubectl: Kubectl
) -> None:
    mine = replace(kubectl, namespace=jobs.namespace)

    def wait(job: str, *conditions: str) -> None:
        for condition in conditions:
            mine.run("wait", "dsj", job, f"--for=condition={condition}", "--timeout=40s")

    jobs.submit("good", replicas=1, suspend=True)
    wait("good", "Suspended", "Admitted", "Reconciling=False", "Stalled=False", "PodsReady=False")
    jobs.edit("good", suspend=False)
    wait("good", "PodsReady", "Running", "Suspended=False", "Checkpointed=False", "Restarting=False")
    checkpoint = {"step": 7, "time": "2026-03-01T12:00:00Z", "path": "/checkpoints/x", "bytes": 1, "seconds": 0.1}
    words = json.dumps({"version": 1, "generation": 1, "attempt": 1, "phase": "training", "checkpoint": checkpoint})
    kubelet.finish("good-worker-0-0", exit_code=75, message=words)
    wait("good", "Checkpointed", "Running", "Complete=False")
    assert jobs.live("good") == ["good-worker-0-1"]
    kubelet.finish("good-worker-0-1")
    wait("good", "Complete", "Failed=False", "Reconciling=False")

    jobs.submit("bad", replicas=1, recovery={"budgets": {"application": 0}})
    wait("bad", "Running")
    kubelet.finish("bad-worker-0-0", exit_code=1)
    wait("bad", "Failed", "Stalled", "Complete=False", "Running=False")
    mine.run("wait", "dsj", "bad", "--for=jsonpath={.status.state}=Failed", "--timeout=40s")


def test_kubectl_wait_for_restarting(jobs: Jobs, operator: OperatorProcess, kubectl: Kubectl) -> None:
    """With a node that lets nothing come up again, so that the moment lasts."""
    mine = replace(kubectl, namespace=jobs.namespace)
    jobs.submit("back", replicas=1)
    eventually(lambda: len(jobs.pods("back")) == 1, deadline_s=60, what="pod")
    node = Kubelet(jobs.api, jobs.namespace)
    node.run(jobs.pods("back")[0])
    mine.run("wait", "dsj", "back", "--for=condition=Running", "--timeout=40s")
    jobs.delete_pod("back-worker-0-0")
    mine.run("wait", "dsj", "back", "--for=condition=Restarting", "--timeout=40s")
    mine.run("wait", "dsj", "back", "--for=condition=Reconciling", "--timeout=40s")
