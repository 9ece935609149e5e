"""How fast the ranks are: told among the agents through the generation's store, and judged by node rank 0.

Each agent writes one small key a window; node rank 0 reads every node's once in that time, a few nodes at a turn of
the supervision loop, so that neither the loop nor the store's host is ever busy with it. Nothing waits for this: an
agent that is silent, or a store that is lost, only means that nothing new is known.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from deepseek_trainer.agent.log import EventLog
from deepseek_trainer.agent.membership import MembershipChanged
from deepseek_trainer.agent.rounds import Entry
from deepseek_trainer.agent.session import Session
from deepseek_trainer.agent.settings import Settings
from deepseek_trainer.agent.status import Status
from deepseek_trainer.agent.steptimes import StepTimes
from deepseek_trainer.agent.store import StoreLost
from deepseek_trainer.agent.stragglers import Figure, Judge, Slow
from deepseek_trainer.contract import STRAGGLERS_MAX, Straggler

KEY = "pace"
LOOK_EVERY_S = 0.2
NODES_A_TURN = 16
NODES_A_SECOND = 50
"""What the store's host is asked by node rank 0 at most, however large the world is, and told by all."""
_SHOWN = 3
"""Significant digits of seconds in a report."""


class Pace:
    """One pod's part in it."""

    def __init__(
        self, settings: Settings, status: Status, log: EventLog, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._status = status
        self._log = log
        self._window_s = settings.straggler_window_s
        self._procs = settings.proc_per_node
        self._clock = clock
        self.begin({})

    def begin(self, files: Mapping[int, Path]) -> None:
        """The training processes were started anew.

        Args:
            files: the file of the pulse of each rank of this pod.
        """
        self._times = StepTimes(files)
        self._judge = Judge()
        self._windows = 0
        self._looked_at, self._told_at, self._asked_at = float("-inf"), self._clock(), self._clock()
        self._turn = 0
        self._heard: dict[int, str] = {}
        self._figures: dict[int, Figure] = {}
        self._fresh: set[int] = set()
        self._entries: dict[int, Entry] = {}

    def turn(self, session: Session | None) -> None:
        """Reads the pulses of this pod, now and then, and tells and hears what is due. Returns soon."""
        now = self._clock()
        if now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            self._status.paced(self._times.look())
        if session is not None:
            with contextlib.suppress(StoreLost, MembershipChanged):  # whoever polls the round finds that out as well
                self._exchange(session)

    def _exchange(self, session: Session) -> None:
        now, nodes = self._clock(), session.membership.nodes
        window_s = max(self._window_s, nodes / NODES_A_SECOND)
        if now - self._told_at >= window_s and (figures := self._times.window()):
            self._told_at, self._windows = now, self._windows + 1
            ranks = {rank: [round(value, 6) for value in figure] for rank, figure in figures.items()}
            session.say(KEY, json.dumps({"window": self._windows, "ranks": ranks}))
        turns = -(-nodes // NODES_A_TURN)
        if session.membership.node_rank == 0 and now - self._asked_at >= window_s / turns:
            self._asked_at = now
            first = self._turn * NODES_A_TURN
            self._hear(session.said(KEY, list(range(first, min(first + NODES_A_TURN, nodes)))))
            self._turn = (self._turn + 1) % turns
            if self._turn == 0:
                self._conclude(session)

    def _hear(self, said: Mapping[int, str]) -> None:
        for node_rank, text in said.items():
            if self._heard.get(node_rank) != text:
                self._heard[node_rank] = text
                figures = {int(rank): Figure(*figure) for rank, figure in json.loads(text)["ranks"].items()}
                self._figures |= figures
                self._fresh |= figures.keys()

    def _conclude(self, session: Session) -> None:
        before = {slow.rank for slow in self._judge.named}
        fresh, self._fresh = self._fresh, set()
        self._judge.judge(self._figures, fresh)
        named = self._judge.named
        said = tuple(self._straggler(session, slow) for slow in self._costliest(named))
        for straggler in said:
            if straggler.rank not in before:
                self._log.warning("rank is slower than the others", **straggler.model_dump())
        for rank in sorted(before - {slow.rank for slow in named}):
            self._log.info("rank is as fast as the others again", rank=rank)
        if self._figures:
            self._status.judged(said)

    @staticmethod
    def _costliest(named: tuple[Slow, ...]) -> list[Slow]:
        chosen = sorted(named, key=lambda slow: (-slow.cost_s, slow.rank))[:STRAGGLERS_MAX]
        return sorted(chosen, key=lambda slow: slow.rank)

    def _straggler(self, session: Session, slow: Slow) -> Straggler:
        node_rank = slow.rank // self._procs
        if node_rank not in self._entries:
            self._entries[node_rank] = session.entry(node_rank)
        entry = self._entries[node_rank]
        return Straggler(
            rank=slow.rank,
            pod=entry.pod,
            node=entry.node,
            busy_seconds=_rounded(slow.busy_s),
            median_seconds=_rounded(slow.median_s),
            step_seconds=_rounded(slow.step_s),
        )


def _rounded(seconds: float) -> float:
    return float(f"{max(0.0, seconds):.{_SHOWN}g}")
