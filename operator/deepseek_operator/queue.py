"""The work queue: keys, each at most once in the queue and at most once at work, retried slower and slower.

    add            now (a key that is at work is handed out again when it is done)
    add_after      later; the earliest of several dates holds
    retry          after an exponential back-off with jitter, within a budget that all keys share
    forget         the key did well: its back-off starts over

Not thread-safe: one event loop uses it.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from deepseek_operator.ratelimit import TokenBucket

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds before a failed key is tried again: doubled each time, up to a limit, times 0.5 to 1.5."""

    first_s: float = 0.2
    longest_s: float = 60.0

    def delay_s(self, failures: int, jitter: float) -> float:
        """Failures from 1; jitter in [0, 1)."""
        return float(min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 32))) * (0.5 + jitter)


class WorkQueue(Generic[Key]):
    """Keys for a fixed number of workers."""

    def __init__(self, budget: TokenBucket, *, backoff: Backoff = Backoff(), rng: random.Random | None = None) -> None:
        self._budget = budget
        self._backoff = backoff
        self._rng = rng or random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._ready: deque[Key] = deque()
        self._queued: set[Key] = set()
        self._active: set[Key] = set()
        self._again: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        """Keys that a worker could take now."""
        return len(self._ready)

    @property
    def idle(self) -> bool:
        """Nothing is ready and nothing at work; dates in the future don't count."""
        return not self._ready and not self._active

    def add(self, key: Key) -> None:
        """Makes the key ready now."""
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if key in self._active:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.append(key)
            self._wake()

    def add_after(self, key: Key, delay_s: float) -> None:
        """Makes the key ready in delay_s seconds, unless it is ready already or due earlier."""
        if delay_s <= 0:
            return self.add(key)
        if key in self._queued or key in self._again:
            return None
        loop = asyncio.get_running_loop()
        due = loop.time() + delay_s
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= due:
                return None
            timer.cancel()
        self._timers[key] = loop.call_at(due, self._fire, key)
        return None

    def retry(self, key: Key) -> float:
        """Makes a key that failed ready again after its back-off. Returns the seconds."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay_s = max(self._backoff.delay_s(failures, self._rng.random()), self._budget.reserve())
        self.add_after(key, delay_s)
        return delay_s

    def forget(self, key: Key) -> None:
        """The key did well: the next failure is its first."""
        self._failures.pop(key, None)

    async def get(self) -> Key:
        """The next ready key, in the order of adding; it is at work until `done`."""
        while not self._ready:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake()  # the wake-up was for a worker that leaves: hand it on
                raise
        key = self._ready.popleft()
        self._queued.discard(key)
        self._active.add(key)
        return key

    def done(self, key: Key) -> None:
        """The work on the key ended, well or not; what was added meanwhile becomes ready."""
        self._active.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def close(self) -> None:
        """Drops every date, so that no timer outlives the queue."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _fire(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
