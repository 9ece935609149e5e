"""Notices changes of Workloads: one small list every two seconds, however many jobs wait, and none where none does.

A watch would end the operator where Kueue isn't installed, and a look at each waiting job would cost several requests
each. This asks for the metadata of our Workloads, and wakes the jobs whose Workload is not what it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NoReturn

import structlog

from deepseek_operator.cluster.client import KubeClient
from deepseek_operator.cluster.errors import ApiError

log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(__name__)

INTERVAL_S = 2.0
RETRY_S = 15.0
"""After a refusal: Kueue is missing, say. Each job tells its own reason."""


class WorkloadPoll:
    """Wakes jobs when their Workloads change."""

    def __init__(self, client: KubeClient, namespaces: Sequence[str], wake: Callable[[str, str], None]) -> None:
        """Args: wake: is told namespace and name of a job. namespaces: empty means all."""
        self._client = client
        self._namespaces = tuple(namespaces) or (None,)
        self._wake = wake
        self._followed: set[tuple[str, str]] = set()
        self._versions: dict[tuple[str, str], str] = {}

    def follow(self, namespace: str, name: str) -> None:
        """The job has, or asks for, a place in Kueue."""
        self._followed.add((namespace, name))

    def forget(self, namespace: str, name: str) -> None:
        """The job is gone or over."""
        self._followed.discard((namespace, name))

    async def run(self) -> NoReturn:
        """Looks for ever."""
        pause_s = INTERVAL_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = await self.look() if self._followed else INTERVAL_S

    async def look(self) -> float:
        """One look; answers in how many seconds the next one is due."""
        try:
            lists = [await self._client.list_workloads(namespace) for namespace in self._namespaces]
        except ApiError as error:
            log.debug("workloads can't be listed", error=str(error))
            return RETRY_S
        seen = {(ref.namespace, ref.name): f"{ref.uid}/{ref.resource_version}" for refs in lists for ref in refs}
        changed = {job for job in seen.keys() | self._versions.keys() if seen.get(job) != self._versions.get(job)}
        self._versions = seen
        for namespace, name in sorted(changed & self._followed):
            self._wake(namespace, name)
        return INTERVAL_S
