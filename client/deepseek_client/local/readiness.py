"""Readiness as a kubelet probes it: in the background, and one slow answer does not take a pod out of service."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from deepseek_client.local import http

FAILURE_THRESHOLD = 3
"""Probes in a row that must fail before a ready pod is not ready."""
TIMEOUT_S = 2.0


@dataclass(slots=True)
class _Probed:
    probe: Future[bool]
    ready: bool = False
    failures: int = 0


class Readiness:
    """The answers of `/readyz`, pod by pod; never waits for one."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="probe")
        self._pods: dict[str, _Probed] = {}

    def look(self, addresses: dict[str, str]) -> dict[str, bool]:
        """Pod -> ready, for these pods and their addresses; the next probe of each is begun where none is under way."""
        self._forget(set(self._pods) - set(addresses))
        for pod, ip in addresses.items():
            known = self._pods.get(pod)
            if known is None:
                self._pods[pod] = _Probed(self._begin(ip))
            elif known.probe.done():
                _take(known, known.probe.result())
                known.probe = self._begin(ip)
        return {pod: self._pods[pod].ready for pod in addresses}

    def close(self) -> None:
        """Waits for the probes that are under way."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self, ip: str) -> Future[bool]:
        return self._pool.submit(lambda: http.get(ip, "/readyz", TIMEOUT_S) is not None)

    def _forget(self, pods: Iterable[str]) -> None:
        for pod in pods:
            self._pods.pop(pod).probe.cancel()


def _take(known: _Probed, healthy: bool) -> None:
    known.failures = 0 if healthy else known.failures + 1
    known.ready = healthy or (known.ready and known.failures < FAILURE_THRESHOLD)
