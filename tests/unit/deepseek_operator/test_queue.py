"""The work queue: once queued, one at a time, later, slower and slower."""

from __future__ import annotations

import asyncio
import random

import pytest
from deepseek_operator.queue import Backoff, WorkQueue
from deepseek_operator.ratelimit import TokenBucket


def make(**backoff: float) -> WorkQueue[str]:
    budget = TokenBucket(1e6, 1e6, lambda: 0.0)
    return WorkQueue(budget, backoff=Backoff(**backoff) if backoff else Backoff(), rng=random.Random(1))


async def test_a_key_is_queued_once() -> None:
    queue = make()
    for _ in range(3):
        queue.add("a")
    queue.add("b")
    assert [await queue.get(), await queue.get()] == ["a", "b"]
    assert len(queue) == 0


async def test_a_key_at_work_is_handed_out_again_only_when_done() -> None:
    queue = make()
    queue.add("a")
    key = await queue.get()
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0
    queue.done(key)
    assert await queue.get() == "a"
    queue.done("a")
    assert queue.idle


async def test_of_two_dates_the_earlier_holds() -> None:
    queue = make()
    queue.add_after("a", 60)
    queue.add_after("a", 0.01)
    queue.add_after("a", 60)
    async with asyncio.timeout(5):
        assert await queue.get() == "a"
    queue.done("a")
    assert len(queue) == 0
    queue.close()


async def test_now_replaces_a_date() -> None:
    queue = make()
    queue.add_after("a", 0.01)
    queue.add("a")
    assert await queue.get() == "a"
    queue.done("a")
    await asyncio.sleep(0.03)  # the date that must not ring any more
    assert len(queue) == 0


async def test_failures_wait_longer_each_time_up_to_a_limit_and_start_over() -> None:
    queue = make(first_s=1.0, longest_s=8.0)
    delays = [queue.retry("a") for _ in range(8)]
    for failures, delay_s in enumerate(delays):
        middle = min(8.0, 2.0**failures)
        assert 0.5 * middle <= delay_s <= 1.5 * middle
    assert len(set(delays)) == len(delays), "jitter"
    queue.forget("a")
    assert queue.retry("a") <= 1.5
    queue.close()


async def test_retries_share_a_budget() -> None:
    queue: WorkQueue[int] = WorkQueue(TokenBucket(1.0, 2.0, lambda: 0.0), backoff=Backoff(0.001, 0.001))
    delays = [queue.retry(number) for number in range(5)]
    assert delays[0] < 0.1
    assert delays[-1] == pytest.approx(3.0)
    queue.close()


async def test_a_wake_up_is_not_lost_with_a_cancelled_worker() -> None:
    queue = make()
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    first.cancel()
    async with asyncio.timeout(5):
        assert await second == "a"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_many_workers_never_share_a_key() -> None:
    queue = make()
    at_work: set[str] = set()
    passes = 0

    async def worker() -> None:
        nonlocal passes
        while True:
            key = await queue.get()
            assert key not in at_work
            at_work.add(key)
            await asyncio.sleep(0)
            at_work.discard(key)
            passes += 1
            queue.done(key)

    workers = [asyncio.create_task(worker()) for _ in range(8)]
    rng = random.Random(3)
    for _ in range(500):
        queue.add(f"job-{rng.randrange(5)}")
        if rng.random() < 0.3:
            await asyncio.sleep(0)
    for _ in range(1000):
        await asyncio.sleep(0)
    assert queue.idle
    assert passes >= 5
    assert not any(worker.done() for worker in workers)
    for task in workers:
        task.cancel()


def test_token_bucket_gives_the_burst_and_then_the_rate() -> None:
    now = 0.0
    bucket = TokenBucket(10.0, 3.0, lambda: now)
    assert [bucket.reserve() for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bucket.reserve() == pytest.approx(0.1)
    now = 10.0
    assert bucket.reserve() == 0.0
