"""Many jobs at once, a job that is no good among good ones, and how much is asked of the API server for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.api import Api, Jobs
from support.crd import CRD_NAME
from support.eventually import eventually
from support.faultproxy import FaultProxy
from support.operators import OperatorProcess

pytestmark = pytest.mark.cluster
Start = Callable[..., OperatorProcess]
CRD = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{CRD_NAME}"
MAX_WRITES = 14


def _launched(jobs: Jobs) -> int:
    return sum(1 for job in jobs.api.items(jobs.path) if job.get("status", {}).get("launchedGeneration") == 1)


def test_twenty_jobs_at_once_converge(jobs: Jobs, operator: OperatorProcess) -> None:
    for number in range(20):
        jobs.submit(f"many-{number}", replicas=4)
    eventually(lambda: _launched(jobs) == 20, deadline_s=60, what="20 jobs launched", describe=operator.tail)
    pods = jobs.api.items(jobs.pods_path)
    assert len(pods) == 80
    assert all(pod["metadata"]["name"].endswith("-0") for pod in pods)


def test_a_job_of_eight_pods_costs_few_writes(api: Api, jobs: Jobs, start_operator: Start, tmp_path: Path) -> None:
    with FaultProxy(api) as proxy:
        operator = start_operator(proxy.kubeconfig(tmp_path), leader_election=False)
        operator.wait_for("leading", deadline_s=60)
        for number in range(5):
            jobs.submit(f"thrifty-{number}", replicas=8)
        eventually(lambda: _launched(jobs) == 5, deadline_s=60, what="5 jobs launched", describe=operator.tail)
        writes = proxy.writes
    assert [seen for seen in writes if seen.status >= 300 and seen.status != 409] == []
    assert len(writes) <= 5 * MAX_WRITES


@pytest.fixture
def lenient_crd(api: Api, crd: None) -> Iterator[None]:
    """An older API server knew no schema: what it stored may be anything."""
    strict = api.get(CRD)["spec"]["versions"]
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    loose = [{**version, "schema": {"openAPIV3Schema": anything}} for version in strict]
    api.merge(CRD, {"spec": {"versions": loose}})
    yield
    api.merge(CRD, {"spec": {"versions": strict}})


def test_an_invalid_stored_job_is_told_so_and_disturbs_nobody(
    jobs: Jobs, operator: OperatorProcess, lenient_crd: None
) -> None:
    body = {
        "apiVersion": "training.deepseekjob.dev/v1alpha1",
        "kind": "DeepSeekJob",
        "spec": {"workers": {"replicas": 5000, "image": "example.org/trainer:1", "procPerNode": 0}},
    }
    eventually(
        lambda: jobs.api.create(jobs.path, {**body, "metadata": {"generateName": "odd-"}}),
        deadline_s=20,
        what="the API server takes anything",
    )
    jobs.submit("good")
    eventually(
        lambda: jobs.status("good").get("launchedGeneration") == 1,
        deadline_s=40,
        what="the good job",
        describe=operator.tail,
    )
    [odd] = [job["metadata"]["name"] for job in jobs.api.items(jobs.path) if job["metadata"]["name"].startswith("odd-")]

    def message() -> str:
        return next((c["message"] for c in jobs.status(odd).get("conditions", []) if c["type"] == "Stalled"), "")

    text = eventually(message, deadline_s=30, what="the odd job is told", describe=operator.tail)
    assert "spec.workers.replicas" in text
    assert "spec.workers.procPerNode" in text
    version = jobs.get(odd)["metadata"]["resourceVersion"]
    told = len(operator.said("job refused"))
    jobs.submit("later")
    eventually(
        lambda: jobs.status("later").get("launchedGeneration") == 1,
        deadline_s=40,
        what="a later job",
        describe=operator.tail,
    )
    assert jobs.get(odd)["metadata"]["resourceVersion"] == version, "an invalid job is not written again and again"
    assert len(operator.said("job refused")) == told
