"""Kueue: its real scheduler and controllers give and take quota, on a real API server, with a fake kubelet.

The operator runs as the chart's service account with the rights of rbac.kueue and rbac.ray, and with no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from deepseek_operator.api.names import API_VERSION, KIND
from native import processes
from support import kueue
from support.api import Api, Jobs
from support.eventually import eventually
from support.kubectl import Kubectl
from support.kubelet import Kubelet
from support.kueue import FLAVOR_LABELS, FLAVOR_TOLERATION, Queues
from support.operators import OperatorProcess

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
Start = Callable[..., OperatorProcess]
DEADLINE_S = 60


@pytest.fixture
def chart_values() -> tuple[str, ...]:
    return ("rbac.kueue=true", "rbac.ray=true")


@pytest.fixture(scope="module")
def kueue_at_work(
    api: Api, kubectl: Kubectl, kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[processes.Daemon]:
    with kueue.running(api, kubectl, kubeconfig, tmp_path_factory.mktemp("kueue")) as daemon:
        yield daemon
        processes.require_alive(daemon)


@pytest.fixture
def queues(kueue_at_work: processes.Daemon, jobs: Jobs) -> Queues:
    """Quota for one job of two workers."""
    return Queues(jobs, "1", preemption={"withinClusterQueue": "LowerPriority"})


@pytest.fixture
def operator(operator_of_the_chart: Start) -> Iterator[OperatorProcess]:
    process = operator_of_the_chart()
    process.wait_for("leading")
    yield process
    assert process.complaints() == []


def submit(jobs: Jobs, name: str, *, priority: str = "", **spec: Any) -> None:
    workers = {"replicas": 2, "image": "example.org/t:1", "resources": {"requests": {"cpu": "500m"}}}
    scheduling = {"gang": "Kueue", "queue": kueue.QUEUE} | ({"priorityClassName": priority} if priority else {})
    jobs.submit(name, workers=workers | spec.pop("workers", {}), scheduling=scheduling, **spec)


def admitted(jobs: Jobs, name: str) -> tuple[str, str]:
    """Status and reason of the job's condition Admitted."""
    found = {c["type"]: c for c in jobs.status(name).get("conditions", [])}.get("Admitted", {})
    return found.get("status", ""), found.get("reason", "")


def runs(queues: Queues, name: str, workers: int = 2) -> None:
    eventually(
        lambda: jobs_ready(queues.jobs, name) == f"{workers}/{workers}",
        deadline_s=DEADLINE_S,
        what=f"{name} runs",
        describe=lambda: queues.describe(name),
    )


def jobs_ready(jobs: Jobs, name: str) -> str:
    return str(jobs.status(name).get("readyNodes", ""))


def waits(queues: Queues, name: str, reason: str) -> None:
    eventually(
        lambda: (
            (queues.jobs.state(name), *admitted(queues.jobs, name)) == ("Queued", "False", reason)
            and queues.jobs.live(name) == []
        ),
        deadline_s=DEADLINE_S,
        what=f"{name} waits: {reason}",
        describe=lambda: queues.describe(name),
    )


def holds(queues: Queues, cpu: str) -> None:
    eventually(lambda: queues.used() == cpu, deadline_s=60, what=f"{cpu} CPU is reserved", describe=queues.used)


def finish(kubelet: Kubelet, jobs: Jobs, name: str) -> None:
    for pod in jobs.live(name):
        kubelet.finish(pod)
    eventually(lambda: jobs.state(name) == "Succeeded", deadline_s=DEADLINE_S, what=f"{name} succeeded")


def test_without_kueue_the_job_waits_and_says_what_is_missing(jobs: Jobs, operator: OperatorProcess) -> None:
    if jobs.api.find(kueue.ROOT):
        pytest.skip("this cluster has Kueue")
    submit(jobs, "early")
    eventually(
        lambda: "install Kueue" in str(jobs.status("early").get("conditions")),
        deadline_s=DEADLINE_S,
        what="told what is missing",
        describe=lambda: jobs.describe("early") + operator.tail(),
    )
    assert (jobs.state("early"), jobs.pods("early")) == ("Queued", [])
    assert jobs.status("early").get("startTime") is None


@pytest.mark.usefixtures("operator")
def test_the_head_of_ray_has_its_share_of_the_quota(jobs: Jobs, queues: Queues, kubelet: Kubelet) -> None:
    tiny = {"resources": {"requests": {"cpu": "100m"}}}
    workers = {"replicas": 2, "image": "example.org/t:1", "resources": {"requests": {"cpu": "200m"}}}
    spec = {
        "workers": workers,
        "trainer": {"training": {"steps": 100, "globalBatchSize": 16}},
        "data": {"corpus": "chitchat", "ray": {"head": tiny, "raylet": tiny}},
        "scheduling": {"gang": "Kueue", "queue": kueue.QUEUE},
    }
    body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "with-ray"}, "spec": spec}
    jobs.api.create(jobs.path, body)
    runs(queues, "with-ray")
    holds(queues, "700m")  # twice 200 and 100, and 100
    [head] = [pod for pod in jobs.pods("with-ray") if pod["metadata"]["name"] == "with-ray-ray-0"]
    assert FLAVOR_LABELS.items() <= head["spec"]["nodeSelector"].items()
    assert FLAVOR_TOLERATION in head["spec"]["tolerations"]
    for slot in range(2):
        kubelet.finish(f"with-ray-worker-{slot}-0")
    eventually(lambda: jobs.state("with-ray") == "Succeeded", deadline_s=DEADLINE_S, what="Succeeded")
    holds(queues, "0")


@pytest.mark.usefixtures("operator")
def test_the_second_job_waits_until_the_first_one_ends(jobs: Jobs, queues: Queues, kubelet: Kubelet) -> None:
    submit(jobs, "one")
    runs(queues, "one")
    for pod in jobs.pods("one"):
        assert pod["spec"]["nodeSelector"] == FLAVOR_LABELS
        assert FLAVOR_TOLERATION in pod["spec"]["tolerations"]
        assert "schedulingGates" not in pod["spec"]
    holds(queues, "1")
    submit(jobs, "two")
    waits(queues, "two", "WaitingForQuota")
    assert jobs.pods("two") == []
    assert jobs.api.find(f"/api/v1/namespaces/{jobs.namespace}/services/two-workers") is None
    status = jobs.status("two")
    assert (status.get("startTime"), status.get("activeSince")) == (None, None)
    finish(kubelet, jobs, "one")
    runs(queues, "two")
    assert queues.condition("one", "Finished") == "True"
    finish(kubelet, jobs, "two")
    holds(queues, "0")


@pytest.mark.usefixtures("operator")
def test_a_lost_worker_is_replaced_within_the_quota(jobs: Jobs, queues: Queues, kubelet: Kubelet) -> None:
    submit(jobs, "lost")
    runs(queues, "lost")
    before = queues.workload("lost")
    jobs.delete_pod("lost-worker-1-0")
    eventually(lambda: "lost-worker-1-1" in jobs.live("lost"), deadline_s=60, what="replacement")
    runs(queues, "lost")
    after = queues.workload("lost")
    assert before is not None
    assert after is not None
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"]["admission"] == before["status"]["admission"]
    assert jobs.pods("lost")[-1]["spec"]["nodeSelector"] == FLAVOR_LABELS


@pytest.mark.usefixtures("operator")
def test_a_deactivated_job_frees_its_quota_and_comes_back(jobs: Jobs, queues: Queues, kubelet: Kubelet) -> None:
    submit(jobs, "held")
    runs(queues, "held")
    submit(jobs, "next")
    queues.set_active("held", False)
    waits(queues, "held", "EvictedByQueue")
    runs(queues, "next")
    finish(kubelet, jobs, "next")
    assert jobs.live("held") == []
    queues.set_active("held", True)
    runs(queues, "held")
    status = jobs.status("held")
    assert (status["generation"], status["incarnations"]) == (2, {"0": 1, "1": 1})
    assert (status["totalRestarts"], status.get("failures", [])) == (0, [])


@pytest.mark.usefixtures("operator", "kubelet")
def test_a_more_urgent_job_takes_the_quota(jobs: Jobs, queues: Queues) -> None:
    submit(jobs, "patient", priority=queues.priority("low", 1))
    runs(queues, "patient")
    submit(jobs, "urgent", priority=queues.priority("high", 1000))
    runs(queues, "urgent")
    waits(queues, "patient", "EvictedByQueue")
    assert jobs.status("patient")["totalRestarts"] == 0


@pytest.mark.usefixtures("operator", "kubelet")
def test_a_suspended_job_gives_its_place_up(jobs: Jobs, queues: Queues) -> None:
    submit(jobs, "paused")
    runs(queues, "paused")
    jobs.api.merge(f"{jobs.path}/paused", {"spec": {"suspend": True}})
    eventually(
        lambda: jobs.state("paused") == "Suspended" and queues.workload("paused") is None,
        deadline_s=DEADLINE_S,
        what="suspended, and out of the queue",
        describe=lambda: queues.describe("paused"),
    )
    submit(jobs, "other")
    runs(queues, "other")
    jobs.api.merge(f"{jobs.path}/paused", {"spec": {"suspend": False}})
    waits(queues, "paused", "WaitingForQuota")


@pytest.mark.usefixtures("operator", "kubelet")
def test_a_resized_job_asks_anew(jobs: Jobs, queues: Queues) -> None:
    elastic = {"minReplicas": 1, "maxReplicas": 8}
    submit(jobs, "grows", elastic=elastic, workers={"replicas": 1})
    runs(queues, "grows", 1)
    jobs.api.merge(f"{jobs.path}/grows", {"spec": {"workers": {"replicas": 2}}})
    runs(queues, "grows", 2)
    holds(queues, "1")
    jobs.api.merge(f"{jobs.path}/grows", {"spec": {"workers": {"replicas": 3}}})
    waits(queues, "grows", "WaitingForQuota")
