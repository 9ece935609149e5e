"""Server-side apply on a real API server: what we own is put right, what others own stays, what is others' is left."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from deepseek_operator.api.names import MANAGER
from deepseek_operator.api.v1alpha1 import DeepSeekJob
from deepseek_operator.cluster.client import KubeClient, create_or_own
from deepseek_operator.cluster.credentials import BearerToken, find_credentials, open_session
from deepseek_operator.cluster.errors import AlreadyExists
from deepseek_operator.cluster.transport import Transport
from deepseek_operator.ratelimit import TokenBucket
from deepseek_operator.render import headless_service
from support.api import Jobs

pytestmark = pytest.mark.cluster


@pytest.fixture
async def client(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubeClient]:
    """The operator's own client, as admin."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    credentials = find_credentials()
    token = BearerToken(credentials)
    async with open_session(credentials, token) as session:
        yield KubeClient(Transport(session, credentials.server, token, TokenBucket(1000, 1000, time.monotonic)))


async def test_a_service_of_ours_is_put_right_and_others_fields_stay(jobs: Jobs, client: KubeClient) -> None:
    job = DeepSeekJob.model_validate(jobs.submit("applied"))
    manifest, uid = headless_service(job), job.metadata.uid
    path = f"/api/v1/namespaces/{jobs.namespace}/services/applied-workers"
    await create_or_own(client, manifest, uid)
    jobs.api.merge(path, {"metadata": {"labels": {"team": "a"}}, "spec": {"publishNotReadyAddresses": False}})

    await create_or_own(client, manifest, uid)

    service = jobs.api.get(path)
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["metadata"]["labels"]["team"] == "a"
    managers = {(entry["manager"], entry["operation"]) for entry in service["metadata"]["managedFields"]}
    assert (MANAGER, "Apply") in managers


async def test_a_service_of_somebody_else_is_not_taken_over(jobs: Jobs, client: KubeClient) -> None:
    job = DeepSeekJob.model_validate(jobs.submit("foreign"))
    manifest = headless_service(job)
    path = f"/api/v1/namespaces/{jobs.namespace}/services"
    theirs = {"metadata": {"name": "foreign-workers"}, "spec": {"ports": [{"port": 80}]}}
    jobs.api.create(path, theirs)

    with pytest.raises(AlreadyExists, match="belongs to something else; delete it or rename the job"):
        await create_or_own(client, manifest, job.metadata.uid)

    assert jobs.api.get(f"{path}/foreign-workers")["spec"]["ports"][0]["port"] == 80
