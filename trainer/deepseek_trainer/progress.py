"""What a rank tells its agent: rank 0 the report that the world sees, every rank its pulse."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from deepseek_trainer.contract import Report
from deepseek_trainer.pulse import PulseWriter
from deepseek_trainer.report import Reporter

_WINDOW_STEPS = 20


class Pace(NamedTuple):
    """How fast the last steps were."""

    tokens_per_second: float
    """Of the whole job."""
    step_s: float
    """Seconds of a step."""


class Progress:
    """The report as it grows, and how fast training is."""

    def __init__(self, reporter: Reporter, pulse: PulseWriter, clock: Callable[[], float] = time.perf_counter) -> None:
        self.report = Report()
        self.pulse = pulse
        self._reporter = reporter
        self._clock = clock
        self._steps: deque[tuple[float, int]] = deque(maxlen=_WINDOW_STEPS + 1)

    def update(self, **changes: Any) -> None:
        """Changes fields of the report; a change of phase is written at once."""
        self.report = self.report.model_copy(update=changes)
        self.pulse.enter(self.report.phase)
        self._reporter.write(self.report)

    def started(self) -> None:
        """The next step starts now: what came before doesn't count towards throughput."""
        self._steps.clear()
        self._steps.append((self._clock(), 0))
        self.pulse.enter("training")

    def stepped(self, step: int, tokens: int) -> Pace:
        """A step has ended that trained on so many tokens, over all ranks; the pace of the last steps."""
        self.pulse.stepped(step)
        self._steps.append((self._clock(), tokens))
        (begin, _), *counted = self._steps
        elapsed_s = self._steps[-1][0] - begin
        trained = sum(tokens for _, tokens in counted)
        return Pace(trained / elapsed_s if elapsed_s else 0.0, elapsed_s / len(counted))

    def close(self) -> None:
        self._reporter.flush()
