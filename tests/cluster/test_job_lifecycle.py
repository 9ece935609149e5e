"""A job from applied to ended, with a real API server and a fake kubelet: what is made, and what is left alone."""

from __future__ import annotations

import json

import pytest
from support.api import Jobs
from support.eventually import eventually
from support.kubelet import Kubelet
from support.operators import OperatorProcess

pytestmark = pytest.mark.cluster
GROUP = "training.deepseekjob.dev"
MEMBERSHIP = f"{GROUP}/membership"


def test_job_gets_pods_and_a_service_and_nothing_of_kopf(jobs: Jobs, operator: OperatorProcess) -> None:
    job = jobs.submit("plain", replicas=3)
    # Pods and Service are made side by side.
    eventually(
        lambda: jobs.status("plain").get("launchedGeneration") == 1,
        deadline_s=60,
        what="launched",
        describe=operator.tail,
    )
    assert len(jobs.pods("plain")) == 3
    service = jobs.api.get(f"/api/v1/namespaces/{jobs.namespace}/services/plain-workers")
    for child in [*jobs.pods("plain"), service]:
        [owner] = child["metadata"]["ownerReferences"]
        assert owner["uid"] == job["metadata"]["uid"]
        assert owner["controller"] is True
    for thing in [jobs.get("plain"), *jobs.pods("plain"), service]:
        assert not thing["metadata"].get("finalizers")
        assert "kopf" not in json.dumps(thing)


def test_job_runs_and_succeeds(jobs: Jobs, operator: OperatorProcess, kubelet: Kubelet) -> None:
    jobs.submit("good", replicas=2)
    eventually(
        lambda: jobs.status("good").get("readyNodes") == "2/2",
        deadline_s=60,
        what="ready",
        describe=lambda: jobs.describe("good"),
    )
    for name in jobs.live("good"):
        kubelet.finish(name)
    eventually(
        lambda: jobs.state("good") == "Succeeded",
        deadline_s=60,
        what="Succeeded",
        describe=lambda: jobs.describe("good"),
    )
    status = jobs.status("good")
    assert {c["type"]: c["status"] for c in status["conditions"]}["Complete"] == "True"


def test_failing_worker_is_retried_until_the_limit(jobs: Jobs, operator: OperatorProcess, kubelet: Kubelet) -> None:
    jobs.submit("bad", replicas=1, recovery={"budgets": {"application": 1}})
    for incarnation in range(2):
        name = f"bad-worker-0-{incarnation}"
        eventually(
            lambda name=name: name in jobs.live("bad") and jobs.status("bad").get("readyNodes") == "1/1",  # type: ignore[misc]
            deadline_s=60,
            what=f"{name} runs",
            describe=lambda: jobs.describe("bad"),
        )
        kubelet.finish(name, exit_code=1, message=json.dumps({"failure": {"rank": 0, "message": "ValueError: boom"}}))
    eventually(
        lambda: jobs.state("bad") == "Failed", deadline_s=60, what="Failed", describe=lambda: jobs.describe("bad")
    )
    status = jobs.status("bad")
    assert status["restarts"]["application"] >= 1
    assert "boom" in json.dumps(status["failures"])
    assert status["failures"][0]["exitCode"] == 1


def test_lost_pod_is_replaced_and_survivors_are_told(jobs: Jobs, operator: OperatorProcess, kubelet: Kubelet) -> None:
    jobs.submit("loss", replicas=3)
    eventually(
        lambda: jobs.status("loss").get("readyNodes") == "3/3",
        deadline_s=60,
        what="ready",
        describe=lambda: jobs.describe("loss"),
    )
    before = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in jobs.pods("loss")}
    jobs.delete_pod("loss-worker-1-0")
    eventually(
        lambda: "loss-worker-1-1" in jobs.live("loss"),
        deadline_s=60,
        what="replacement",
        describe=lambda: jobs.describe("loss"),
    )
    status = jobs.status("loss")
    assert (status["generation"], status["attempt"], status["incarnations"]) == (2, 2, {"1": 1})

    def told() -> bool:
        parts = {
            pod["metadata"]["name"]: json.loads(pod["metadata"]["annotations"][MEMBERSHIP]) for pod in jobs.pods("loss")
        }
        assert {part["nodeRank"] for part in parts.values()} == {0, 1, 2}
        assert len({part["master"] for part in parts.values()}) == 1
        return all(part["generation"] == 2 for part in parts.values())

    eventually(told, deadline_s=60, what="every member has its part of generation 2")
    after = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in jobs.pods("loss")}
    assert after["loss-worker-0-0"] == before["loss-worker-0-0"]
    assert after["loss-worker-2-0"] == before["loss-worker-2-0"]


def test_replacement_does_not_wait_for_a_pod_stuck_in_terminating(jobs: Jobs, operator: OperatorProcess) -> None:
    jobs.submit("stuck", replicas=2)
    eventually(lambda: len(jobs.pods("stuck")) == 2, deadline_s=60, what="pods")
    node = Kubelet(jobs.api, jobs.namespace)
    for pod in jobs.pods("stuck"):
        node.run(pod)
    eventually(
        lambda: jobs.status("stuck").get("readyNodes") == "2/2",
        deadline_s=60,
        what="ready",
        describe=lambda: jobs.describe("stuck"),
    )
    jobs.delete_pod("stuck-worker-0-0", grace_s=300)  # its node is gone: nobody confirms the deletion
    eventually(
        lambda: "stuck-worker-0-1" in jobs.live("stuck"),
        deadline_s=60,
        what="replacement",
        describe=lambda: jobs.describe("stuck"),
    )
    assert "stuck-worker-0-0" in {pod["metadata"]["name"] for pod in jobs.pods("stuck")}


def test_deleted_and_recreated_job_does_not_adopt_old_pods(jobs: Jobs, operator: OperatorProcess) -> None:
    old = jobs.submit("again", replicas=2)
    eventually(lambda: len(jobs.pods("again")) == 2, deadline_s=60, what="pods")
    jobs.api.delete(f"{jobs.path}/again")
    new = jobs.submit("again", replicas=2)
    assert new["metadata"]["uid"] != old["metadata"]["uid"]

    def stalled() -> bool:
        conditions = {c["type"]: c for c in jobs.status("again").get("conditions", [])}
        return "belongs to another job" in conditions.get("Stalled", {}).get("message", "")

    eventually(stalled, deadline_s=60, what="told that names are taken", describe=lambda: jobs.describe("again"))
    assert {owner["uid"] for pod in jobs.pods("again") for owner in pod["metadata"]["ownerReferences"]} == {
        old["metadata"]["uid"]
    }
    # What the garbage collector does where there is one.
    jobs.api.delete(f"/api/v1/namespaces/{jobs.namespace}/services/again-workers")
    for pod in jobs.pods("again"):
        jobs.delete_pod(pod["metadata"]["name"])

    def owned_by_new() -> bool:
        owners = [owner["uid"] for pod in jobs.pods("again") for owner in pod["metadata"]["ownerReferences"]]
        return owners == [new["metadata"]["uid"]] * 2

    eventually(
        owned_by_new,
        deadline_s=60,
        what="pods of the new job",
        describe=lambda: jobs.describe("again") + operator.tail(),
    )
    eventually(lambda: not stalled(), deadline_s=60, what="no longer stalled", describe=lambda: jobs.describe("again"))
