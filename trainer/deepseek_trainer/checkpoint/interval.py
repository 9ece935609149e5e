"""When the next checkpoint is due: after so many steps, after so many seconds, or as often as is worth its cost.

    steps      every so many steps: all ranks count alike
    seconds    the first step after so many seconds since the last save began: rank 0's clock, and the others hear of it
    auto       the same, with the seconds that lose least: sqrt(2 x cost x time between failures)

The cost of a save is the time in which no step was made, and what the steps beside it took longer than usual. The time
between failures is that of the job so far, as if one failure had been seen in `PRIOR_S` before: each start of training
after the first counts as one, but those after a planned move, which lose no step. Young, A first order approximation to
the optimum checkpoint interval, 1974; Daly, A higher order estimate of the optimum checkpoint interval, 2006.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from deepseek_trainer.checkpoint import layout
from deepseek_trainer.config import CheckpointSpec

PRIOR_S = 4 * 3600.0
"""Time between failures that is assumed before any was seen."""
FIRST_S = 60.0
"""Before the first save, whose cost is not known."""
LEAST_S, MOST_S = 10.0, 3600.0
WINDOW = 64
"""Steps without a save beside them that tell what is usual."""
NEW = 0.5
"""Weight of the last save in the cost: it follows what changes, and one that was slow by chance doesn't rule."""


@dataclass(frozen=True)
class Past:
    """What a job has gone through on its checkpoint folder."""

    failures: int = 0
    seconds: float = 0.0
    """Since its first start."""


def best_s(cost_s: float, past: Past) -> float:
    """Seconds between two saves of that cost that lose least to saves and failures, by Young's formula."""
    between_s = (PRIOR_S + past.seconds) / (past.failures + 1)
    return min(MOST_S, max(LEAST_S, math.sqrt(2 * cost_s * between_s)))


class Interval:
    """When this start of training saves."""

    def __init__(
        self, spec: CheckpointSpec, past: Past | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._spec, self._past, self._clock = spec, past or Past(), clock
        self._began = self._saved = clock()
        self._cost_s: float | None = None
        self._took_s = 0.0
        self._usual: deque[float] = deque(maxlen=WINDOW)
        self._lost_s = 0.0

    @property
    def by_steps(self) -> bool:
        """Whether the number of a step says it, the same on all ranks, and not a clock."""
        return self._spec.every_steps is not None

    def is_step(self, step: int) -> bool:
        """By steps: whether a save is due after this one."""
        return self._spec.every_steps is not None and step % self._spec.every_steps == 0

    def is_over(self) -> bool:
        """By the clock: whether a save is due."""
        return not self.by_steps and self._clock() - self._saved >= self.seconds()

    def seconds(self) -> float:
        """By the clock: seconds from the beginning of one save to that of the next, at present."""
        if self._spec.every_seconds is not None:
            return float(self._spec.every_seconds)
        if self._cost_s is None:
            return FIRST_S
        past = Past(self._past.failures, self._past.seconds + self._clock() - self._began)
        return max(self._took_s, best_s(self._cost_s, past))

    def began(self) -> None:
        """A save begins."""
        self._saved, self._lost_s = self._clock(), 0.0

    def stepped(self, step_s: float, *, beside: bool) -> None:
        """A step took so long; beside: with a save under way."""
        if not math.isfinite(step_s):
            return
        if not beside:
            self._usual.append(step_s)
        elif self._usual:
            self._lost_s += max(0.0, step_s - median(self._usual))

    def ended(self, seconds: float, blocked_s: float) -> None:
        """A save is committed, which took so long, and kept training from making steps for a part of it."""
        cost_s = blocked_s + self._lost_s
        self._cost_s = cost_s if self._cost_s is None else NEW * cost_s + (1 - NEW) * self._cost_s
        self._took_s = seconds


def past(folder: Path, job: str) -> Past:
    """What the job with this UID has gone through: its starts on the folder, the present one with them."""
    own = [start for start in layout.starts(folder) if start.job == job]
    if not own:
        return Past()
    failures = sum(not start.planned for start in own[1:])
    try:
        first = datetime.fromisoformat(own[0].time)
    except ValueError:
        return Past(failures)
    return Past(failures, max(0.0, (datetime.now(UTC) - first).total_seconds()))
