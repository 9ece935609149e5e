"""When a standstill is a hang: pure, one watchdog for each source (a rank's pulse, or the report of rank 0).

| what the source does | a hang after |
| --- | --- |
| makes steps, and enough of them were seen | factor x the 99th percentile of their seconds, the floor at least |
| starts, or is on its first steps | timeout |
| prepares, evaluates, saves | STEPLESS x timeout without any sign of life |
| has finished, or has never said anything | never |
| is a process that somebody has stopped (SIGSTOP), whatever it did | the floor |

The first step of a start compiles and warms up: it is no measure of the others. Times of steps are kept over restarts.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from deepseek_trainer.contract import Phase

WINDOW = 512
"""Steps whose seconds are remembered."""
ENOUGH = 8
"""Steps that must have been seen before their seconds say anything."""
STEPLESS = 4
"""These phases take as long as they take; with the default timeout this is as long as torch lets a rank wait for them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much patience there is, seconds."""

    factor: float
    floor_s: float
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Sign:
    """What a source shows at a moment."""

    phase: Phase
    step: int | None
    ticks: int = 0
    step_s: float | None = None
    """Seconds of the last step, where the source knows; None: the time between two changes of `step` is taken."""


class Watchdog:
    """Looks at one source, again and again."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._times: deque[float] = deque(maxlen=WINDOW)
        self._usual_s = math.nan
        self._seen = 0
        self.restarted()

    def restarted(self) -> None:
        """The processes start anew."""
        self._sign: Sign | None = None
        self._since = self._stopped_since = math.inf
        self._steps = 0

    def see(self, now: float, sign: Sign) -> None:
        """The source shows this. `now` is monotonic."""
        before, self._sign = self._sign, sign
        if before is None or sign.phase != before.phase:
            self._since = now
        elif sign.step != before.step:
            done = 1 if sign.step is None or before.step is None else abs(sign.step - before.step)
            self._stepped(done, now - self._since if sign.step_s is None else sign.step_s)
            self._since = now
        elif sign.ticks != before.ticks and not self._counts_steps(sign):
            self._since = now

    def see_process(self, now: float, state: str) -> None:
        """The process is in this state, by Linux' letter."""
        self._stopped_since = min(now, self._stopped_since) if state == "T" else math.inf

    def still_s(self, now: float) -> float:
        """Seconds without a step, or in a phase without steps without a sign of life; or as a stopped process."""
        return max(0.0, now - self._since, now - self._stopped_since)

    def is_overdue(self, now: float) -> bool:
        limit_s = self.limit_s()
        is_still = limit_s is not None and now - self._since > limit_s
        return is_still or now - self._stopped_since > self._limits.floor_s

    def limit_s(self) -> float | None:
        """Seconds of standstill that are taken for a hang; None: none is."""
        limits, sign = self._limits, self._sign
        if sign is None or sign.phase == "finished":
            return None
        if sign.phase not in ("training", "starting"):
            return STEPLESS * limits.timeout_s
        if not self._counts_steps(sign) or not self._times or self._seen < ENOUGH:
            return limits.timeout_s
        return max(limits.floor_s, limits.factor * self._usual_s)

    def _counts_steps(self, sign: Sign) -> bool:
        return sign.phase == "training" and self._steps > 0

    def _stepped(self, done: int, seconds: float) -> None:
        if self._steps and math.isfinite(seconds):
            self._times.append(seconds)
            self._seen += done
            self._usual_s = percentile_99(self._times)
        self._steps += done


def percentile_99(values: deque[float]) -> float:
    """The smallest value that 99 % of them don't exceed."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]
