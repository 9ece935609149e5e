"""The operator dies, is doubled or is refused: the jobs end up the same as if nothing had happened."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support.api import Api, ApiFailure, Jobs
from support.eventually import eventually
from support.faultproxy import FaultProxy
from support.kubelet import Kubelet
from support.operators import OperatorProcess

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
Start = Callable[..., OperatorProcess]


def _kill_at(proxy: FaultProxy, operator: OperatorProcess, number: int) -> None:
    """The operator gets SIGKILL when the API server has committed its number'th write from now on."""
    first = sum(1 for seen in proxy.writes if seen.status < 300)

    def at_write(count: int) -> None:
        if count == first + number:
            operator.process.send_signal(signal.SIGKILL)

    proxy.at_write = at_write


def _is_dead(operator: OperatorProcess) -> bool:
    return operator.process.poll() is not None


def _is_ready(jobs: Jobs, name: str, nodes: str) -> bool:
    return jobs.status(name).get("readyNodes") == nodes


def _launched(jobs: Jobs, name: str, generation: int) -> bool:
    return jobs.status(name).get("launchedGeneration") == generation


def test_killed_at_any_write_of_a_launch_it_ends_in_the_same_state(
    api: Api, jobs: Jobs, start_operator: Start, tmp_path: Path
) -> None:
    # Writes of a launch: 1 status, then a Service, four pods and an Event, then the status "launched".
    with FaultProxy(api) as proxy:
        config = proxy.kubeconfig(tmp_path)
        operator = start_operator(config, leader_election=False)
        for number in (1, 2, 4, 7, 8):
            operator.wait_for("leading", deadline_s=60)
            name = f"kill-{number}"
            _kill_at(proxy, operator, number)
            jobs.submit(name, replicas=4)
            eventually(partial(_is_dead, operator), deadline_s=60, what=f"killed at write {number}")
            operator = start_operator(config, leader_election=False)
            eventually(
                partial(_launched, jobs, name, 1),
                deadline_s=60,
                what=f"{name} is launched after all",
                describe=partial(jobs.describe, name),
            )
            assert [pod["metadata"]["name"] for pod in jobs.pods(name)] == [
                f"{name}-worker-{slot}-0" for slot in range(4)
            ]
            status = jobs.status(name)
            assert (status["generation"], status["attempt"], status["totalRestarts"]) == (1, 1, 0)
        assert operator.complaints() == []


def test_killed_at_any_write_of_a_recovery_it_counts_one_restart(
    api: Api, jobs: Jobs, kubelet: Kubelet, start_operator: Start, tmp_path: Path
) -> None:
    # Writes of a recovery: 1 status, 2 replacement, 3 and 4 the survivors' annotations.
    with FaultProxy(api) as proxy:
        config = proxy.kubeconfig(tmp_path)
        operator = start_operator(config, leader_election=False)
        for number in (1, 2, 3):
            operator.wait_for("leading", deadline_s=60)
            name = f"lose-{number}"
            jobs.submit(name, replicas=3)
            eventually(
                partial(_is_ready, jobs, name, "3/3"),
                deadline_s=60,
                what="ready",
                describe=partial(jobs.describe, name),
            )
            _kill_at(proxy, operator, number)
            jobs.delete_pod(f"{name}-worker-1-0")
            eventually(partial(_is_dead, operator), deadline_s=60, what=f"killed at write {number}")
            operator = start_operator(config, leader_election=False)
            eventually(
                partial(_launched, jobs, name, 2),
                deadline_s=60,
                what=f"{name} is on generation 2",
                describe=partial(jobs.describe, name),
            )
            assert jobs.live(name) == [f"{name}-worker-0-0", f"{name}-worker-1-1", f"{name}-worker-2-0"]
            status = jobs.status(name)
            assert (status["generation"], status["attempt"], status["totalRestarts"]) == (2, 2, 1)


def test_of_two_operators_one_leads_and_the_other_takes_over(jobs: Jobs, start_operator: Start) -> None:
    first = start_operator(lease_duration_s=30)
    first.wait_for("leading", deadline_s=60)
    second = start_operator(lease_duration_s=30)
    second.wait_for("waiting for the lead", deadline_s=60)
    jobs.submit("one")
    eventually(lambda: _launched(jobs, "one", 1), deadline_s=60, what="launched by the leader", describe=first.tail)
    assert second.said("leading") == []
    first.process.send_signal(signal.SIGSTOP)
    # A short Lease would be lost to a slow machine; one that becomes short now needn't be waited for.
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{jobs.namespace}/leases/deepseek-operator"
    jobs.api.merge(lease, {"spec": {"leaseDurationSeconds": 1}})
    second.wait_for("leading", deadline_s=60)
    jobs.submit("two")
    eventually(
        lambda: _launched(jobs, "two", 1), deadline_s=60, what="launched by the new leader", describe=second.tail
    )
    first.process.send_signal(signal.SIGCONT)
    assert first.process.wait(60) == 1, "the old leader must end when it finds that it leads no more"
    assert second.process.poll() is None


def test_with_the_charts_permissions_nothing_is_forbidden(
    api: Api, jobs: Jobs, operator_of_the_chart: Start, kubelet: Kubelet
) -> None:
    operator = operator_of_the_chart()
    jobs.submit("bounded", replicas=2)
    eventually(
        lambda: jobs.status("bounded").get("readyNodes") == "2/2",
        deadline_s=60,
        what="ready",
        describe=lambda: jobs.describe("bounded") + operator.tail(),
    )
    jobs.delete_pod("bounded-worker-0-0")
    eventually(lambda: _launched(jobs, "bounded", 2), deadline_s=60, what="replaced", describe=operator.tail)
    for name in jobs.live("bounded"):
        kubelet.finish(name)
    eventually(
        lambda: jobs.state("bounded") == "Succeeded",
        deadline_s=60,
        what="Succeeded",
        describe=lambda: jobs.describe("bounded"),
    )
    events = api.items(f"/apis/events.k8s.io/v1/namespaces/{jobs.namespace}/events")
    assert {event["regarding"]["name"] for event in events} == {"bounded"}
    assert operator.complaints() == []


def test_quota_that_refuses_pods_is_the_reason(jobs: Jobs, start_operator: Start) -> None:
    start_operator()
    quotas = f"/api/v1/namespaces/{jobs.namespace}/resourcequotas"
    hard = {"hard": {"pods": "0"}}
    jobs.api.create(quotas, {"metadata": {"name": "none"}, "spec": hard})
    jobs.api.merge(f"{quotas}/none/status", {"status": hard | {"used": {"pods": "0"}}})
    probe = {"metadata": {"name": "probe"}, "spec": {"containers": [{"name": "c", "image": "x"}]}}

    def enforced() -> bool:
        try:
            jobs.api.create(jobs.pods_path, probe)
        except ApiFailure as failure:
            return "exceeded quota" in str(failure)
        jobs.delete_pod("probe")
        return False

    eventually(enforced, deadline_s=60, what="the API server knows the quota")
    jobs.submit("refused", replicas=1)
    eventually(
        lambda: jobs.status("refused").get("reason") == "Refused",
        deadline_s=60,
        what="Refused",
        describe=partial(jobs.describe, "refused"),
    )
    status = jobs.status("refused")
    ready = next(condition for condition in status["conditions"] if condition["type"] == "PodsReady")
    assert "exceeded quota: none" in ready["message"]
    assert (status["state"], status["totalRestarts"]) == ("Pending", 0)
    jobs.api.delete(f"{quotas}/none")
    eventually(
        lambda: jobs.live("refused") == ["refused-worker-0-0"],
        deadline_s=60,
        what="the pod, once the quota is gone",
        describe=partial(jobs.describe, "refused"),
    )


def test_a_namespace_that_is_being_deleted_is_no_trouble_of_the_operators(
    api: Api, jobs: Jobs, start_operator: Start, kubelet: Kubelet
) -> None:
    operator = start_operator()
    jobs.submit("going", replicas=1)
    eventually(lambda: jobs.state("going") == "Running", deadline_s=60, what="Running")
    api.delete(f"/api/v1/namespaces/{jobs.namespace}")
    jobs.delete_pod("going-worker-0-0")

    def told() -> bool:
        return any("because it is being terminated" in c["message"] for c in jobs.status("going")["conditions"])

    eventually(told, deadline_s=60, what="the job says why it has no pod", describe=partial(jobs.describe, "going"))
    assert jobs.live("going") == []
    assert operator.complaints() == []
    assert operator.said("Event not written") == operator.said("request refused") == []
