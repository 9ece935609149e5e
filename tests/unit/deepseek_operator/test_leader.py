"""Leader election on a Lease that lives in memory, with a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from deepseek_operator.cluster.client import KubeClient
from deepseek_operator.cluster.errors import AlreadyExists, Conflict, NotFound, Unavailable
from deepseek_operator.leader import Elector, LeadershipLost, LeaseSpec


class Clock:
    """Time moves when somebody sleeps."""

    def __init__(self) -> None:
        self.s = 0.0

    def monotonic(self) -> float:
        return self.s

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.s)

    async def sleep(self, seconds: float) -> None:
        self.s += seconds
        await asyncio.sleep(0)

    async def reaches(self, moment_s: float) -> None:
        """Lets the others run until they have slept that far."""
        for _ in range(10_000):
            if self.s >= moment_s:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"the clock stands at {self.s} s")


class Leases:
    """One Lease with optimistic concurrency, and faults."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.down = False
        self.read_only = False

    async def get_lease(self, namespace: str, name: str) -> dict[str, Any]:
        self._fault()
        if self.lease is None:
            raise NotFound(404, "NotFound", name, "get lease")
        return self.lease

    async def create_lease(self, namespace: str, lease: Mapping[str, Any]) -> dict[str, Any]:
        self._fault(write=True)
        if self.lease is not None:
            raise AlreadyExists(409, "AlreadyExists", "", "create lease")
        return self._store(lease)

    async def update_lease(self, namespace: str, lease: Mapping[str, Any]) -> dict[str, Any]:
        self._fault(write=True)
        if self.lease is None:
            raise NotFound(404, "NotFound", "", "update lease")
        if lease["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise Conflict(409, "Conflict", "", "update lease")
        return self._store(lease)

    @property
    def holder(self) -> str:
        assert self.lease is not None
        return str(self.lease["spec"]["holderIdentity"])

    def _store(self, lease: Mapping[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.lease = {**lease, "metadata": {**lease["metadata"], "resourceVersion": str(self.version)}}
        return self.lease

    def _fault(self, *, write: bool = False) -> None:
        if self.down or (write and self.read_only):
            raise Unavailable(0, "", "down", "lease")


def elector(leases: Leases, clock: Clock, identity: str) -> Elector:
    return Elector(
        cast(KubeClient, leases),
        LeaseSpec("ns", "lease", identity),
        monotonic=clock.monotonic,
        now=clock.now,
        sleep=clock.sleep,
    )


async def test_the_first_takes_it_and_the_second_waits_until_it_is_given_back() -> None:
    leases, clock = Leases(), Clock()
    first, second = elector(leases, clock, "first"), elector(leases, clock, "second")
    await first.acquire()
    waiting = asyncio.create_task(second.acquire())
    await asyncio.sleep(0)
    assert leases.holder == "first"
    await first.release()
    await waiting
    assert leases.holder == "second"
    assert clock.s < 15


async def test_a_dead_leader_is_replaced_after_the_lease_has_not_changed_for_its_duration() -> None:
    leases, clock = Leases(), Clock()
    await elector(leases, clock, "dead").acquire()
    await elector(leases, clock, "heir").acquire()
    assert leases.holder == "heir"
    assert 15 <= clock.s < 20
    assert leases.lease is not None
    assert leases.lease["spec"]["leaseTransitions"] == 1


async def test_a_leader_that_was_replaced_steps_down() -> None:
    leases, clock = Leases(), Clock()
    old = elector(leases, clock, "old")
    await old.acquire()
    await elector(leases, clock, "new").acquire()
    with pytest.raises(LeadershipLost, match="new"):
        await old.hold()


async def test_a_leader_cut_off_steps_down_before_anybody_may_take_over() -> None:
    leases, clock = Leases(), Clock()
    leader = elector(leases, clock, "leader")
    await leader.acquire()
    leases.down = True
    with pytest.raises(LeadershipLost, match="could not be renewed"):
        await leader.hold()
    assert 10 <= clock.s < 15


async def test_a_short_outage_is_survived() -> None:
    leases, clock = Leases(), Clock()
    leader = elector(leases, clock, "leader")
    await leader.acquire()
    holding = asyncio.create_task(leader.hold())
    leases.down = True
    await clock.reaches(6)
    leases.down = False
    await clock.reaches(60)
    assert not holding.done()
    holding.cancel()


async def test_it_waits_while_the_api_server_is_away() -> None:
    leases, clock = Leases(), Clock()
    leases.down = True
    acquiring = asyncio.create_task(elector(leases, clock, "only").acquire())
    await clock.reaches(30)
    leases.down = False
    await acquiring
    assert leases.holder == "only"


@pytest.mark.parametrize("there", [False, True], ids=["no Lease", "a dead leader's Lease"])
async def test_it_waits_while_the_api_server_answers_and_stores_nothing(there: bool) -> None:
    leases, clock = Leases(), Clock()
    if there:
        await elector(leases, clock, "dead").acquire()
    leases.read_only = True
    acquiring = asyncio.create_task(elector(leases, clock, "heir").acquire())
    await clock.reaches(60)
    assert not acquiring.done()
    leases.read_only = False
    await acquiring
    assert leases.holder == "heir"


async def test_a_lease_that_is_deleted_as_it_is_taken_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    leases, clock = Leases(), Clock()
    await elector(leases, clock, "dead").acquire()
    update = leases.update_lease

    async def delete_first(namespace: str, lease: Mapping[str, Any]) -> dict[str, Any]:
        leases.lease = None
        return await update(namespace, lease)

    monkeypatch.setattr(leases, "update_lease", delete_first)
    await elector(leases, clock, "heir").acquire()
    assert leases.holder == "heir"
