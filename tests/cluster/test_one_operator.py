"""One operator and no other that serves the cluster: what it costs, how it is seen from outside, whose jobs it leaves alone."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from support.api import Api, Jobs
from support.eventually import eventually
from support.faultproxy import FaultProxy
from support.operators import OperatorProcess

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
Start = Callable[..., OperatorProcess]
MAX_WRITES = 14


def test_a_job_of_eight_pods_costs_few_writes(api: Api, jobs: Jobs, start_operator: Start, tmp_path: Path) -> None:
    with FaultProxy(api) as proxy:
        operator = start_operator(proxy.kubeconfig(tmp_path), leader_election=False)
        operator.wait_for("leading", deadline_s=60)
        for number in range(5):
            jobs.submit(f"thrifty-{number}", replicas=8)
        eventually(lambda: jobs.launched() == 5, deadline_s=60, what="5 jobs launched", describe=operator.tail)
        writes = proxy.writes
    assert [seen for seen in writes if seen.status >= 300 and seen.status != 409] == []
    assert len(writes) <= 5 * MAX_WRITES


def test_another_controller_s_job_is_left_alone(jobs: Jobs, start_operator: Start) -> None:
    start_operator(resync_interval_s=1)
    jobs.submit("theirs", managedBy="kueue.x-k8s.io/multikueue")
    jobs.submit("ours", managedBy="training.deepseekjob.dev/deepseek-operator")
    eventually(lambda: len(jobs.pods("ours")) == 2, deadline_s=60, what="pods of ours")
    jobs.submit("after-a-resync")
    eventually(lambda: len(jobs.pods("after-a-resync")) == 2, deadline_s=60, what="pods of another")
    assert "status" not in jobs.get("theirs")
    assert jobs.pods("theirs") == []
    assert "status" in jobs.get("ours")


def test_probes_and_metrics_and_an_orderly_end(jobs: Jobs, start_operator: Start) -> None:
    operator = start_operator()
    operator.wait_for("leading")

    def answer(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{operator.port}{path}", timeout=30) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    eventually(lambda: answer("/readyz")[0] == 200, deadline_s=60, what="ready", describe=lambda: answer("/readyz"))
    assert answer("/healthz") == (200, "ok")
    jobs.submit("seen")
    eventually(
        lambda: 'deepseekjob_operator_jobs{state="Pending"} 1.0' in answer("/metrics")[1],
        deadline_s=60,
        what="metric of jobs",
    )
    assert "deepseekjob_operator_leader 1.0" in answer("/metrics")[1]
    eventually(
        lambda: 'deepseekjob_operator_watch_events_total{kind="leases"}' in answer("/metrics")[1],
        deadline_s=60,
        what="its own Lease seen through the watch",
        describe=operator.tail,
    )
    assert operator.terminate() == 0
    assert operator.complaints() == []
    lease = jobs.api.get(f"/apis/coordination.k8s.io/v1/namespaces/{jobs.namespace}/leases/deepseek-operator")
    # It tries for 2 s; what the API server doesn't take in that time is said.
    assert lease["spec"].get("holderIdentity", "") == "" or operator.said("Lease not given back; it expires by itself")
