"""What a rank tells its agent: rank 0 the report that the world sees, every rank its pulse."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from deepseek_trainer.contract import Memory, Report, StepSeconds
from deepseek_trainer.pulse import Pulse, PulseWriter
from deepseek_trainer.report import Reporter

_WINDOW_STEPS = 20


class Pace(NamedTuple):
    """How fast the last steps were."""

    tokens_per_second: float
    """Of the whole job."""
    step_s: float
    """Seconds of a step."""
    data_wait: float
    """Share of that in which this rank waited for its data."""
    busy_s: float
    """Seconds of the last step that were this rank's own work; NaN where that was not measured."""
    parts: StepSeconds
    memory: Memory


class Progress:
    """The report as it grows, and how fast training is."""

    def __init__(self, reporter: Reporter, pulse: PulseWriter, clock: Callable[[], float] = time.perf_counter) -> None:
        self.report = Report()
        self.pulse = pulse
        self.tokens: int | None = 0
        """That the weights were trained on, over all starts; None where a checkpoint didn't say it."""
        self._reporter = reporter
        self._clock = clock
        self.last_step_s = math.nan
        """Wall seconds of the last step, without evaluations and checkpoints."""
        self._steps: deque[tuple[float, int, float]] = deque(maxlen=_WINDOW_STEPS + 1)

    def update(self, **changes: Any) -> None:
        """Changes fields of the report; a change of phase is written at once."""
        self.report = self.report.model_copy(update=changes)
        self.pulse.enter(self.report.phase)
        self._reporter.write(self.report)

    def started(self) -> None:
        """The next step starts now: what came before doesn't count towards throughput."""
        self._steps.clear()
        self._steps.append((self._clock(), 0, 0.0))
        self.pulse.enter("training")

    def stepped(self, step: int, tokens: int) -> Pace:
        """A step has ended that trained on so many tokens, over all ranks; the pace of the last steps."""
        pulse = self.pulse.stepped(step)
        self.tokens = None if self.tokens is None else self.tokens + tokens
        self.last_step_s = pulse.step_s
        self._steps.append((self._clock(), tokens, pulse.data_s))
        (begin, _, _), *counted = self._steps
        elapsed_s = max(self._steps[-1][0] - begin, sys.float_info.min)
        trained, waited_s = sum(tokens for _, tokens, _ in counted), sum(waited_s for *_, waited_s in counted)
        return Pace(
            trained / elapsed_s,
            elapsed_s / len(counted),
            waited_s / elapsed_s,
            pulse.busy_s,
            _parts(pulse),
            _memory(pulse),
        )

    def close(self) -> None:
        self._reporter.flush()


def finite(value: float) -> float | None:
    """None for what is no number: JSON has no word for it."""
    return value if math.isfinite(value) else None


def _parts(pulse: Pulse) -> StepSeconds:
    return StepSeconds(
        data=finite(pulse.data_s),
        forward=finite(pulse.forward_s),
        backward=finite(pulse.backward_s),
        optimizer=finite(pulse.optimizer_s),
        waiting=finite(pulse.waited_s),
    )


def _memory(pulse: Pulse) -> Memory:
    sizes = (pulse.resident_bytes, pulse.allocated_bytes, pulse.reserved_bytes)
    resident, allocated, reserved = (int(size) if math.isfinite(size) else None for size in sizes)
    return Memory(resident=resident, allocated=allocated, reserved=reserved)
