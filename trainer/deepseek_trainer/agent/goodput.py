"""Where the seconds of an agent's life went: pure bookkeeping whose buckets always sum to the wall clock."""

from __future__ import annotations

from typing import Literal

from deepseek_trainer.contract import Goodput

Bucket = Literal["productive", "startup", "checkpoint", "recovery", "stalled", "waiting"]

STALL_MIN_S = 60.0
STALL_FACTOR = 10.0
"""Training stalls when a step takes longer than this many times the longest one so far (and STALL_MIN_S)."""
KEPT_STEPS = 4096


class GoodputClock:
    """Adds each moment to one bucket; steps that a resume threw away move from productive to recovery."""

    def __init__(self, now: float) -> None:
        """Args: now: monotonic seconds, as in every other call."""
        self._now = now
        self._seconds: dict[Bucket, float] = dict.fromkeys(
            ("productive", "startup", "checkpoint", "recovery", "stalled", "waiting"), 0.0
        )
        self._steps: list[tuple[int, float]] = []
        self._step_at: float | None = None
        self._longest_s = 0.0

    def advance(self, now: float, bucket: Bucket) -> None:
        """The time since the last call was spent on this; productive time becomes stalled when no step comes."""
        if bucket == "productive" and self._is_stalled(now):
            bucket = "stalled"
        self._seconds[bucket] += max(0.0, now - self._now)
        self._now = max(now, self._now)

    def stepped(self, step: int) -> None:
        """A step was completed by now."""
        if self._steps and step == self._steps[-1][0]:
            return
        if self._step_at is not None:
            self._longest_s = max(self._longest_s, self._now - self._step_at)
        self._step_at = self._now
        self._steps.append((step, self._seconds["productive"]))
        if len(self._steps) > KEPT_STEPS:
            self._steps = self._steps[::2]

    def restarted(self) -> None:
        """The processes start anew: the time to their first step is not a step's time."""
        self._step_at = None

    def resumed(self, step: int) -> None:
        """Training goes on from this step: what was done beyond it was in vain."""
        kept = [entry for entry in self._steps if entry[0] <= step]
        if len(kept) == len(self._steps):
            return
        kept_s = kept[-1][1] if kept else 0.0
        lost_s = max(0.0, self._seconds["productive"] - kept_s)
        self._seconds["productive"] -= lost_s
        self._seconds["recovery"] += lost_s
        self._steps = kept

    def goodput(self) -> Goodput:
        return Goodput(**{name: round(seconds, 3) for name, seconds in self._seconds.items()})

    def _is_stalled(self, now: float) -> bool:
        limit_s = max(STALL_MIN_S, STALL_FACTOR * self._longest_s)
        return self._step_at is not None and now - self._step_at > limit_s
