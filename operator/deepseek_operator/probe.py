"""Looks whether a suspected node is lost: within a second or two, where the control plane takes forty.

    neither the node's kubelet nor the agent of the pod there takes a connection, twice in a row,
    while the kubelet of another node of the gang does                              ──► the node is lost

Rules: a connection is opened and closed, nothing is sent. Nobody is looked at unless a job suspects it
(`decide.suspicion`), and then beside the passes. A kubelet that lives reports itself how its pod ended, so a crash is
never taken for a lost node; where no kubelet can be reached at all nothing is concluded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from deepseek_operator.api.names import AGENT_PORT
from deepseek_operator.decide.suspicion import Suspect, Suspicion

Key = TypeVar("Key")
Answers = Callable[[str, int], Awaitable[bool]]
CONNECT_S = 1.0
PAUSE_S = 0.5
MOST_S = 5.0
"""Between looks at what is suspected for long, and answers."""
LOOKS = 2
"""As many in a row prove it."""


async def answers(address: str, port: int) -> bool:
    """Whether somebody takes a connection there."""
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(address, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


@dataclass(slots=True)
class _Look:
    suspicion: Suspicion
    task: asyncio.Task[None]
    lost: frozenset[str] = frozenset()


class NodeProbe(Generic[Key]):
    """Looks at suspected nodes, for any number of jobs."""

    def __init__(
        self,
        *,
        kubelet_port: int,
        on_change: Callable[[Key], None],
        answers: Answers = answers,
        pause_s: float = PAUSE_S,
    ) -> None:
        """Args: kubelet_port: 0 looks at nobody."""
        self._kubelet_port = kubelet_port
        self._on_change = on_change
        self._answers = answers
        self._pause_s = pause_s
        self._looks: dict[Key, _Look] = {}

    def lost(self, key: Key, suspicion: Suspicion) -> frozenset[str]:
        """Names of the suspected nodes that are lost, as far as was found. Looks on as long as they are suspected."""
        look = self._looks.get(key)
        if look is not None and look.suspicion == suspicion:
            return look.lost
        if look is not None:
            self._looks.pop(key).task.cancel()
        if suspicion.suspects and suspicion.controls and self._kubelet_port:
            task = asyncio.create_task(self._watch(key, suspicion), name=f"nodes of {key}")
            self._looks[key] = _Look(suspicion, task, frozenset() if look is None else look.lost & _nodes(suspicion))
            return self._looks[key].lost
        return frozenset()

    def close(self) -> None:
        """Looks no more."""
        for look in self._looks.values():
            look.task.cancel()
        self._looks.clear()

    async def _watch(self, key: Key, suspicion: Suspicion) -> None:
        dead, pause_s = dict.fromkeys(_nodes(suspicion), 0), self._pause_s
        while True:
            # All in one moment: where this process gets no time, the controls are as late as the suspects.
            known, found = await asyncio.gather(self._is_any_alive(suspicion.controls), self._dead(suspicion.suspects))
            for node, is_dead in found:
                dead[node] = dead[node] + 1 if is_dead and known else 0
            lost = frozenset(node for node, times in dead.items() if times >= LOOKS)
            look = self._looks[key]
            if lost != look.lost:
                look.lost = lost
                self._on_change(key)
            await asyncio.sleep(pause_s)
            pause_s = min(1.5 * pause_s, MOST_S)

    async def _is_any_alive(self, controls: tuple[str, ...]) -> bool:
        return any(await asyncio.gather(*[self._answers(host, self._kubelet_port) for host in controls]))

    async def _dead(self, suspects: frozenset[Suspect]) -> list[tuple[str, bool]]:
        async def is_dead(one: Suspect) -> bool:
            found = await asyncio.gather(
                self._answers(one.host_ip, self._kubelet_port), self._answers(one.pod_ip, AGENT_PORT)
            )
            return not any(found)

        order = sorted(suspects, key=lambda one: (one.node, one.pod_ip))
        return list(zip([one.node for one in order], await asyncio.gather(*map(is_dead, order)), strict=True))


def _nodes(suspicion: Suspicion) -> frozenset[str]:
    return frozenset(one.node for one in suspicion.suspects)
