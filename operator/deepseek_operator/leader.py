"""Leader election by a coordination.k8s.io Lease: of several replicas one works and the others wait.

The clocks of two machines are never compared: a waiting replica measures, with its own clock, how long the
Lease has not changed. A leader that could not renew within renew_deadline_s (shorter than the Lease's duration)
steps down before anybody else may take over. All writes of the operator are also guarded by versions and
deterministic names, so that even two leaders for a moment could not make a job's pods twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from deepseek_operator.cluster.client import KubeClient
from deepseek_operator.cluster.errors import AlreadyExists, ApiError, Conflict, NotFound, Unavailable


class LeadershipLost(Exception):
    """Another replica leads, or may lead by now: this process must end at once."""


@dataclass(frozen=True, slots=True)
class LeaseSpec:
    """Which Lease, held by whom, for how long."""

    namespace: str
    name: str
    identity: str
    duration_s: float = 15.0
    renew_deadline_s: float = 10.0

    @property
    def retry_s(self) -> float:
        """Between two looks at, or renewals of, the Lease."""
        return self.duration_s / 7.5

    def manifest(self, now: datetime, transitions: int, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
        """The Lease as its new holder writes it."""
        stamp = micro_time(now)
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata or {"namespace": self.namespace, "name": self.name},
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": max(1, round(self.duration_s)),
                "acquireTime": stamp,
                "renewTime": stamp,
                "leaseTransitions": transitions,
            },
        }


def micro_time(now: datetime) -> str:
    """A Kubernetes MicroTime."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Elector:
    """Takes, keeps and gives back one Lease."""

    def __init__(
        self,
        client: KubeClient,
        spec: LeaseSpec,
        *,
        on_wait: Callable[[str], None] = lambda holder: None,
        on_renew: Callable[[str], None] = lambda version: None,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._spec = spec
        self._on_wait = on_wait
        self._on_renew = on_renew
        self._monotonic = monotonic
        self._now = now
        self._sleep = sleep
        self._lease: dict[str, Any] = {}
        self._renewed_at = 0.0

    async def acquire(self) -> None:
        """Returns when this replica leads; retries for as long as it takes."""
        seen_version, seen_at, told = "", self._monotonic(), ""
        while True:
            try:
                lease = await self._find()
                if lease is None:
                    if await self._create():
                        return
                    continue
                version = lease["metadata"]["resourceVersion"]
                holder = lease.get("spec", {}).get("holderIdentity") or ""
                if version != seen_version:
                    seen_version, seen_at = version, self._monotonic()
                expired = self._monotonic() - seen_at >= self._duration_of(lease)
                if (holder in ("", self._spec.identity) or expired) and await self._take(lease):
                    return
                if holder != told:
                    told = holder
                    self._on_wait(holder)
            except Unavailable as error:
                self._on_wait(f"unknown: {error}")
            await self._sleep(self._spec.retry_s)

    async def hold(self) -> None:
        """Renews until it can't.

        Raises:
            LeadershipLost: another replica took over, or no renewal succeeded within the deadline.
        """
        while True:
            await self._sleep(self._spec.retry_s)
            left_s = self._renewed_at + self._spec.renew_deadline_s - self._monotonic()
            try:
                async with asyncio.timeout(max(0.0, left_s)):
                    await self._renew()
            except (ApiError, TimeoutError) as error:
                if self._monotonic() - self._renewed_at >= self._spec.renew_deadline_s:
                    raise LeadershipLost(f"Lease {self._spec.name} could not be renewed: {error}") from error

    async def release(self) -> None:
        """Gives the Lease back, so that a waiting replica needn't wait for it to expire."""
        if self._lease and self._lease["spec"].get("holderIdentity") == self._spec.identity:
            await self._write({**self._lease["spec"], "holderIdentity": "", "renewTime": micro_time(self._now())})
            self._lease = {}

    def _duration_of(self, lease: dict[str, Any]) -> float:
        """What its holder promised: a replica with other settings may hold it."""
        return float(lease.get("spec", {}).get("leaseDurationSeconds") or self._spec.duration_s)

    async def _find(self) -> dict[str, Any] | None:
        try:
            return await self._client.get_lease(self._spec.namespace, self._spec.name)
        except NotFound:
            return None

    async def _create(self) -> bool:
        try:
            self._adopt(
                await self._client.create_lease(self._spec.namespace, self._spec.manifest(self._now(), transitions=0))
            )
        except AlreadyExists:
            return False
        return True

    async def _take(self, lease: dict[str, Any]) -> bool:
        transitions = int(lease.get("spec", {}).get("leaseTransitions") or 0) + 1
        try:
            self._adopt(
                await self._client.update_lease(
                    self._spec.namespace, self._spec.manifest(self._now(), transitions, lease["metadata"])
                )
            )
        except (Conflict, NotFound):  # somebody changed or deleted it since it was read
            return False
        return True

    async def _write(self, spec: dict[str, Any]) -> None:
        self._adopt(await self._client.update_lease(self._spec.namespace, {**self._lease, "spec": spec}))

    async def _renew(self) -> None:
        try:
            await self._write({**self._lease["spec"], "renewTime": micro_time(self._now())})
        except NotFound as error:
            raise LeadershipLost(f"Lease {self._spec.name} was deleted") from error
        except Conflict as error:
            # Our own renewal whose answer was lost, or somebody else's take-over?
            lease = await self._client.get_lease(self._spec.namespace, self._spec.name)
            holder = lease.get("spec", {}).get("holderIdentity")
            if holder != self._spec.identity:
                raise LeadershipLost(f"Lease {self._spec.name} is held by {holder or 'nobody'}") from error
            self._lease = lease

    def _adopt(self, lease: dict[str, Any]) -> None:
        self._lease = lease
        self._renewed_at = self._monotonic()
        self._on_renew(lease["metadata"]["resourceVersion"])
