"""Which peers give no sign of life: every agent counts up its heartbeat in the store, and who must know looks at all.

| seen | silent |
| --- | --- |
| while processes run: a beat unchanged for SILENT_S, and the node has not said that it leaves | that node |
| before they run: no entry in the round ABSENT_S after our own | that node |
| the store gives no answer for SILENT_S, or its connection is broken for ABSENT_S | its host; of others nothing is known |

Rule: silence is a hint, never a proof. It makes an agent stop waiting for a collective, and the operator look closer.
"""

from __future__ import annotations

from collections.abc import Callable

from deepseek_trainer import contract
from deepseek_trainer.agent.membership import MembershipChanged
from deepseek_trainer.agent.session import Session
from deepseek_trainer.agent.store import StoreLost

SILENT_S = 5.0
"""Beats come each second; a busy machine may hold one up for a few."""
ABSENT_S = 2.0
LOOK_EVERY_S = 1.0
NODES_A_LOOK = 100
"""A look reads a key of each node: in larger worlds it is taken more rarely."""


class Silence:
    """The signs of life of one round, as one agent sees them. No method raises for want of an answer."""

    def __init__(self, session: Session, clock: Callable[[], float]) -> None:
        self._session = session
        self._clock = clock
        self._round = session.round
        self._began_at = clock()
        self._heard: dict[int, tuple[str, float]] = {}
        self._answered_at = clock()
        self._looked_at = float("-inf")
        self.nodes: tuple[int, ...] = ()
        """Node ranks that are silent."""
        self.store = False
        """The store's host is silent."""

    def __bool__(self) -> bool:
        return bool(self.nodes) or self.store

    def is_about(self, session: Session) -> bool:
        return session is self._session and session.round == self._round

    def told(self) -> contract.Silence:
        """For the operator."""
        generation = self._session.membership.generation
        return contract.Silence(generation=generation, nodes=self.nodes[: contract.SILENT_MAX], store=self.store)

    def look(self) -> None:
        """While processes run: compares the beats, if it is time to."""
        if self._is_time():
            self._ask(self._hear)

    def wait_for_entries(self) -> None:
        """Before they run: who has not entered the round."""
        if self._clock() - self._began_at >= ABSENT_S and self._is_time():
            self._ask(lambda: tuple(self._session.missing("entry")))

    def lose_store(self) -> None:
        """The connection to the store is broken."""
        self.store = self._clock() - self._answered_at >= ABSENT_S

    def _is_time(self) -> bool:
        now = self._clock()
        if now - self._looked_at < self._every_s():
            return False
        self._looked_at = now
        return True

    def _every_s(self) -> float:
        return max(LOOK_EVERY_S, self._session.membership.nodes / NODES_A_LOOK)

    def _ask(self, question: Callable[[], tuple[int, ...]]) -> None:
        now = self._clock()
        try:
            self.nodes = question()
        except MembershipChanged:  # the store takes its time, and the file names another generation meanwhile
            self.store = now - self._answered_at >= SILENT_S
            return
        except StoreLost:
            self.nodes = ()
            return
        self._answered_at, self.store = now, False

    def _hear(self) -> tuple[int, ...]:
        now, silent_s = self._clock(), max(SILENT_S, 2 * self._every_s())
        for rank, beat in enumerate(self._session.beats()):
            if self._heard.get(rank, ("", 0.0))[0] != beat:
                self._heard[rank] = beat, now
        silent = [rank for rank, (_, heard_at) in self._heard.items() if now - heard_at >= silent_s]
        return tuple(rank for rank in silent if not self._session.has_left(rank))
