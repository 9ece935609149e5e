"""What a rank tells its agent: rank 0 the report that the world sees, every rank its pulse."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from deepseek_trainer.contract import Report
from deepseek_trainer.pulse import PulseWriter
from deepseek_trainer.report import Reporter

_WINDOW_STEPS = 20


class Progress:
    """The report as it grows, and how fast training is."""

    def __init__(self, reporter: Reporter, pulse: PulseWriter, clock: Callable[[], float] = time.perf_counter) -> None:
        self.report = Report()
        self.pulse = pulse
        self._reporter = reporter
        self._clock = clock
        self._ends: list[float] = []

    def update(self, **changes: Any) -> None:
        """Changes fields of the report; a change of phase is written at once."""
        self.report = self.report.model_copy(update=changes)
        self.pulse.enter(self.report.phase)
        self._reporter.write(self.report)

    def started(self) -> None:
        """The next step starts now: what came before doesn't count towards throughput."""
        self._ends = [self._clock()]
        self.pulse.enter("training")

    def stepped(self, step: int, tokens: int) -> float:
        """A step has ended; the throughput over the last steps, tokens per second of the whole job."""
        self.pulse.stepped(step)
        self._ends = [*self._ends[-_WINDOW_STEPS:], self._clock()]
        elapsed = self._ends[-1] - self._ends[0]
        return tokens * (len(self._ends) - 1) / elapsed if elapsed else 0.0

    def close(self) -> None:
        self._reporter.flush()
