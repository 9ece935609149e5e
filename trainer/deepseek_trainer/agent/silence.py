"""Which peers give no sign of life: every agent counts up its heartbeat in the store, and who must know looks at all.

    beat unchanged for SILENT_S, and not marked as left     that node is silent
    no answer from the store for SILENT_S                   its host is silent; nothing is known of the others
    the connection to the store is broken                   its host has ended, or starts anew: nothing is known

Rule: silence is a hint, never a proof. It makes an agent stop waiting for a collective, and the operator look closer.
"""

from __future__ import annotations

from collections.abc import Callable

from deepseek_trainer.agent.membership import MembershipChanged
from deepseek_trainer.agent.session import Session
from deepseek_trainer.agent.store import StoreLost

SILENT_S = 5.0
"""Beats come each second; a busy machine may hold one up for a few."""
LOOK_EVERY_S = 1.0
NODES_A_LOOK = 100
"""A look reads a key of each node: in larger worlds it is taken more rarely."""


class Silence:
    """The heartbeats of one round, as one agent sees them."""

    def __init__(self, session: Session, clock: Callable[[], float]) -> None:
        self._session = session
        self._clock = clock
        self._round = -1
        self._heard: dict[int, tuple[str, float]] = {}
        self._answered_at = clock()
        self._looked_at = float("-inf")
        self.nodes: tuple[int, ...] = ()
        """Node ranks that are silent."""
        self.store = False
        """The store's host is silent."""

    def __bool__(self) -> bool:
        return bool(self.nodes) or self.store

    def look(self) -> None:
        """Looks at the beats if it is time to. Never raises for want of an answer, and waits for none."""
        now, every_s = self._clock(), max(LOOK_EVERY_S, self._session.membership.nodes / NODES_A_LOOK)
        if now - self._looked_at < every_s:
            return
        self._looked_at = now
        try:
            self._hear(self._session.beats(), now, max(SILENT_S, 2 * every_s))
        except MembershipChanged:  # the store took its time, and the file names another generation meanwhile
            self.store = now - self._answered_at >= SILENT_S
            return
        except StoreLost:
            self.nodes = ()
        self._answered_at, self.store = now, False

    def _hear(self, beats: list[str], now: float, silent_s: float) -> None:
        if self._session.round != self._round:
            self._round, self._heard = self._session.round, {}
        for rank, beat in enumerate(beats):
            if self._heard.get(rank, ("", 0.0))[0] != beat:
                self._heard[rank] = beat, now
        silent = [rank for rank, (_, heard_at) in self._heard.items() if now - heard_at >= silent_s]
        self.nodes = tuple(rank for rank in silent if not self._session.has_left(rank))
