"""Probes fail when, and only when, the operator can no longer do its work."""

from __future__ import annotations

import asyncio

import aiohttp
from deepseek_operator.health import Health, build_app, serve
from deepseek_operator.metrics import Metrics
from prometheus_client import CollectorRegistry


class Clock:
    s = 1000.0

    def __call__(self) -> float:
        return self.s


def test_a_replica_that_waits_is_well_and_ready() -> None:
    clock = Clock()
    health = Health(60, clock)
    clock.s += 10_000
    assert health.problems() == []
    assert health.waits_for() is None


def test_a_leader_is_ready_after_its_first_resync_and_ill_without_more() -> None:
    clock = Clock()
    health = Health(60, clock)
    health.lead(canary=False)
    assert health.waits_for() is not None
    health.resynced()
    assert health.waits_for() is None
    clock.s += 179
    assert health.problems() == []
    clock.s += 2
    assert "no resync" in health.problems()[0]
    health.resynced()
    assert health.problems() == []


def test_a_deaf_watch_is_noticed() -> None:
    clock = Clock()
    health = Health(10_000, clock)
    health.lead(canary=True)
    for version in range(30):
        health.canary_sent(str(version))
        clock.s += 2
        health.canary_seen(str(version))
    assert health.problems() == []
    health.canary_sent("30")
    health.canary_sent("31")
    clock.s += 91
    assert "deaf" in health.problems()[0]
    health.canary_seen("31")  # a later one says that the earlier came too
    assert health.problems() == []


def test_a_lagging_loop_is_noticed() -> None:
    health = Health(60)
    health.lag_s = 11.0
    assert "lags" in health.problems()[0]


async def test_the_port_answers() -> None:
    health, metrics = Health(60), Metrics(CollectorRegistry())
    metrics.on_response("get", 200, 0.01)
    runner, port = await serve(
        build_app(
            health, metrics, lambda: metrics.count_jobs(["Running"], 1, checkpoint_failed=2, checkpoint_age_s=7.5)
        ),
        "127.0.0.1",
        0,
    )
    async with asyncio.timeout(10), aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/healthz") as response:
            assert (response.status, await response.text()) == (200, "ok")
        health.lag_s = 60.0
        async with session.get(f"http://127.0.0.1:{port}/healthz") as response:
            assert response.status == 503
        async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
            text = await response.text()
    assert 'deepseekjob_operator_jobs{state="Running"} 1.0' in text
    assert "deepseekjob_operator_straggling_jobs 1.0" in text
    assert "deepseekjob_operator_checkpoint_failed_jobs 2.0" in text
    assert "deepseekjob_operator_oldest_checkpoint_age_seconds 7.5" in text
    assert 'deepseekjob_operator_api_requests_total{code="200",verb="get"} 1.0' in text
    await runner.cleanup()
