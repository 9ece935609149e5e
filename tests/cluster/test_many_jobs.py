"""Many jobs at once, and a job that is no good among good ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.api import Api, ApiFailure, Jobs
from support.crd import CRD_NAME
from support.eventually import eventually
from support.operators import OperatorProcess

pytestmark = pytest.mark.cluster
CRD = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{CRD_NAME}"
ODD = {
    "apiVersion": "training.deepseekjob.dev/v1alpha1",
    "kind": "DeepSeekJob",
    "metadata": {"generateName": "odd-"},
    "spec": {"workers": {"replicas": 5000, "image": "example.org/trainer:1", "procPerNode": 0}},
}


def test_twenty_jobs_at_once_converge(jobs: Jobs, operator: OperatorProcess) -> None:
    for number in range(20):
        jobs.submit(f"many-{number}", replicas=4)
    eventually(lambda: jobs.launched() == 20, deadline_s=60, what="20 jobs launched", describe=operator.tail)
    pods = jobs.api.items(jobs.pods_path)
    assert len(pods) == 80
    assert all(pod["metadata"]["name"].endswith("-0") for pod in pods)


@pytest.fixture
def lenient_crd(api: Api, jobs: Jobs) -> Iterator[None]:
    """An older API server knew no schema: what it stored may be anything."""
    strict = api.get(CRD)["spec"]["versions"]
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    loose = [{**version, "schema": {"openAPIV3Schema": anything}} for version in strict]
    api.merge(CRD, {"spec": {"versions": loose}})
    yield
    api.merge(CRD, {"spec": {"versions": strict}})

    def refused() -> bool:
        try:
            api.create(f"{jobs.path}?dryRun=All", ODD)
        except ApiFailure as failure:
            return failure.status == 422
        return False

    eventually(refused, deadline_s=60, what="the API server is strict again")


def test_an_invalid_stored_job_is_told_so_and_disturbs_nobody(
    jobs: Jobs, operator: OperatorProcess, lenient_crd: None
) -> None:
    eventually(lambda: jobs.api.create(jobs.path, ODD), deadline_s=60, what="the API server takes anything")
    jobs.submit("good")
    eventually(
        lambda: jobs.status("good").get("launchedGeneration") == 1,
        deadline_s=60,
        what="the good job",
        describe=operator.tail,
    )
    [odd] = [job["metadata"]["name"] for job in jobs.api.items(jobs.path) if job["metadata"]["name"].startswith("odd-")]

    def message() -> str:
        return next((c["message"] for c in jobs.status(odd).get("conditions", []) if c["type"] == "Stalled"), "")

    text = eventually(message, deadline_s=60, what="the odd job is told", describe=operator.tail)
    assert "spec.workers.replicas" in text
    assert "spec.workers.procPerNode" in text
    version = jobs.get(odd)["metadata"]["resourceVersion"]
    operator.wait_for("job refused")
    told = len(operator.said("job refused"))
    jobs.submit("later")
    eventually(
        lambda: jobs.status("later").get("launchedGeneration") == 1,
        deadline_s=60,
        what="a later job",
        describe=operator.tail,
    )
    assert jobs.get(odd)["metadata"]["resourceVersion"] == version, "an invalid job is not written again and again"
    assert len(operator.said("job refused")) == told
