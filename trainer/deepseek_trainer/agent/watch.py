"""Whether the training processes of this pod go on: each rank by its pulse and its process, a script's by its report.

Rule: a process that has ended well has nothing to show any more; whatever it wrote last is no standstill.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from deepseek_trainer import pulse
from deepseek_trainer.agent import process
from deepseek_trainer.agent.autopsy import Rank
from deepseek_trainer.agent.watchdog import Limits, Sign, Watchdog
from deepseek_trainer.contract import Report

LOOK_EVERY_S = 0.5
ENDED = frozenset(("", "Z", "X"))
"""States of processes that are gone, or only waited for."""


class Watch:
    """The watchdogs of one pod."""

    def __init__(
        self, limits: Limits, report_limits: Limits, report: Callable[[], Report | None], clock: Callable[[], float]
    ) -> None:
        """Args: report: what global rank 0 said last, if it runs here; it counts where no rank has a pulse."""
        self._limits = limits
        self._ranks: Sequence[Rank] = ()
        self._watchdogs: list[Watchdog] = []
        self._report = report
        self._report_watchdog = Watchdog(report_limits)
        self._clock = clock
        self._looked_at = -math.inf

    def started(self, ranks: Sequence[Rank]) -> None:
        """The processes of a round run. What was learnt of the times of steps is kept."""
        self._ranks = ranks
        self._watchdogs += [Watchdog(self._limits) for _ in range(len(ranks) - len(self._watchdogs))]
        for watchdog in self._all():
            watchdog.restarted()

    def is_overdue(self) -> bool:
        """Whether one of the watchdogs barks; looks twice a second."""
        now = self._clock()
        if now - self._looked_at < LOOK_EVERY_S:
            return False
        self._looked_at = now
        has_pulse = False
        for rank, watchdog in zip(self._ranks, self._watchdogs, strict=False):
            found, state = pulse.read(rank.pulse), process.state(rank.pid)
            has_pulse = has_pulse or found is not None
            if state in ENDED:
                watchdog.restarted()
                continue
            watchdog.see_process(now, state)
            if found is not None:
                watchdog.see(now, Sign(found.phase, found.step, found.ticks, found.step_s))
        if not has_pulse:
            self._see_report(now)
        return any(watchdog.is_overdue(now) for watchdog in self._all())

    def still_s(self) -> float:
        """The longest standstill, seconds."""
        now = self._clock()
        return max((watchdog.still_s(now) for watchdog in self._all()), default=0.0)

    def _see_report(self, now: float) -> None:
        first = next((rank for rank in self._ranks if rank.rank == 0), None)
        report = self._report()
        if first is None or process.state(first.pid) in ENDED:
            self._report_watchdog.restarted()
        elif report is not None:
            self._report_watchdog.see(now, Sign(report.phase, report.step))

    def _all(self) -> list[Watchdog]:
        return [*self._watchdogs, self._report_watchdog]
