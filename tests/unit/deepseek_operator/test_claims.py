"""Claims are looked at when it matters, and not again: what is asked of the API server, pass by pass."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web
from deepseek_operator.api.conditions import Fact, merge
from deepseek_operator.api.names import ConditionType, Reason
from deepseek_operator.api.v1alpha1 import DeepSeekJob, Status
from deepseek_operator.claims import Claims
from support.make import START, make_job
from support.scripted import Server, refusal

PATH = "/api/v1/namespaces/team-a/persistentvolumeclaims/"
RESUME = {"volume": {"claimName": "ckpt"}, "resumeFrom": {"claimName": "other", "subPath": "before"}}


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with AsyncExitStack() as stack:
        yield Server(stack)


def answer(name: str, mode: str = "ReadWriteMany", size: str = "1Gi") -> web.Response:
    labels = {"app.kubernetes.io/managed-by": "deepseek-operator", "training.deepseekjob.dev/job-name": "demo"}
    meta = {"name": name, "uid": "u", "resourceVersion": "1", "labels": labels}
    spec = {"accessModes": [mode], "resources": {"requests": {"storage": size}}}
    return web.json_response({"metadata": meta, "spec": spec, "status": {"phase": "Bound"}})


def whole(job: DeepSeekJob, kind: ConditionType = ConditionType.PODS_READY) -> DeepSeekJob:
    """All of its pods are ready, or what else is said of it."""
    facts = [Fact(kind, "True", Reason.ALL_READY)]
    return job.model_copy(update={"status": Status(conditions=merge((), facts, START, 1))})


def asked(server: Server) -> list[str]:
    found = [path.removeprefix(PATH) for _, path, _ in server.requests]
    server.requests.clear()
    return found


def template(**fields: Any) -> DeepSeekJob:
    return make_job(spec={"checkpoint": {"volume": {"template": {"size": "1Gi"} | fields}}})


async def test_a_given_claim_is_read_once_and_never_of_a_job_whose_pods_have_it(server: Server) -> None:
    claims, job = Claims(await server.client()), make_job(spec={"checkpoint": RESUME})
    server.script = [answer("ckpt"), answer("other")]
    first = await claims.look(job)
    assert await claims.look(job) == first
    assert asked(server) == ["ckpt", "other"]
    claims.forget()
    assert await claims.look(whole(job)) == {}
    assert await claims.look(whole(job, ConditionType.COMPLETE)) == {}
    assert asked(server) == []


async def test_one_that_will_not_do_is_read_again_each_time(server: Server) -> None:
    claims = Claims(await server.client())
    server.script = [answer("ckpt", "ReadWriteOncePod"), answer("ckpt"), refusal(404), refusal(403)]
    for _ in range(3):
        await claims.look(make_job())
    assert asked(server) == ["ckpt", "ckpt"]
    claims.forget()
    assert await claims.look(make_job()) == {"ckpt": None}
    assert await claims.look(make_job()) == {}


async def test_where_none_may_be_read_only_a_job_that_needs_it_asks_again_before_the_resync(server: Server) -> None:
    claims = Claims(await server.client())
    server.script = [refusal(403), refusal(403), refusal(403), answer("ckpt"), answer("other")]
    for job in (make_job(spec={"checkpoint": RESUME}), make_job(), template(), template()):
        assert await claims.look(job) == {}
    assert asked(server) == ["ckpt", "demo-checkpoints", "demo-checkpoints"]
    claims.forget()
    assert len(await claims.look(make_job(spec={"checkpoint": RESUME}))) == 2


async def test_a_claim_that_is_made_is_read_again_after_a_change_and_after_a_resync(server: Server) -> None:
    claims = Claims(await server.client())
    server.script = [answer("demo-checkpoints"), answer("demo-checkpoints", size="2Gi"), answer("demo-checkpoints")]
    for job in (template(), whole(template()), template(size="2Gi"), template(size="2Gi")):
        await claims.look(job)
    assert len(asked(server)) == 2
    claims.forget()
    await claims.look(whole(template()))
    assert len(asked(server)) == 1


async def test_a_job_without_checkpoints_asks_for_nothing(server: Server) -> None:
    assert await Claims(await server.client()).look(make_job(checkpoint=False)) == {}
    assert asked(server) == []
