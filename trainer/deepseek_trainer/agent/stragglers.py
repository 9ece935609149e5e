"""Who is persistently slower than the others, judged by their own work a step: pure.

Rules
- What a rank costs is its own work above the median of all ranks: so long the others wait for it in each step. The
  lower median: of two ranks the slower one can be told, of any number at least half are never named.
- It is slow in a window when that is a tenth of a step and more, and far above what the ranks differ by anyway.
- It is named when it was slow in `WINDOWS` windows running, and not any more when it was clearly not slow in as many.
- What is said about a rank is said anew only when it has changed much, so that nobody is kept writing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from statistics import median, median_low
from typing import NamedTuple

SHARE = 0.1
"""Of a step: what a rank must cost to be slow. It is no longer slow below half of it."""
FLOOR_S = 0.005
SPREAD = 4.0
"""How many times the median deviation of all ranks from their median a slow one is away from it."""
WINDOWS = 3
NEWS = 0.25
"""Share by which a named rank's cost must change to be said anew."""


class Figure(NamedTuple):
    """One rank in one window: means over the measured steps, seconds."""

    busy_s: float
    step_s: float


class Slow(NamedTuple):
    """A named rank and the figures of the window in which it was named, or said anew."""

    rank: int
    busy_s: float
    median_s: float
    step_s: float

    @property
    def cost_s(self) -> float:
        """How long the others wait for it in each step."""
        return self.busy_s - self.median_s


class Judge:
    """Judges windows of one round, one after the other."""

    def __init__(self) -> None:
        self._slow: dict[int, int] = {}
        self._calm: dict[int, int] = {}
        self._named: dict[int, Slow] = {}

    @property
    def named(self) -> tuple[Slow, ...]:
        """The slow ranks in their order."""
        return tuple(self._named[rank] for rank in sorted(self._named))

    def judge(self, figures: Mapping[int, Figure], fresh: Collection[int]) -> None:
        """Takes note of a window.

        Args:
            figures: the newest window of each rank that is known.
            fresh: ranks whose window is a new one; nothing new is known of the others.
        """
        if not figures:
            return
        usual_s = median_low(figure.busy_s for figure in figures.values())
        step_s = median(figure.step_s for figure in figures.values())
        deviation_s = median_low(abs(figure.busy_s - usual_s) for figure in figures.values())
        limit_s = max(SHARE * step_s, FLOOR_S, SPREAD * deviation_s)
        for rank in fresh:
            slow = Slow(rank, figures[rank].busy_s, usual_s, step_s)
            self._slow[rank] = self._slow.get(rank, 0) + 1 if slow.cost_s >= limit_s else 0
            self._calm[rank] = self._calm.get(rank, 0) + 1 if slow.cost_s < limit_s / 2 else 0
            self._name(slow)

    def _name(self, slow: Slow) -> None:
        said = self._named.get(slow.rank)
        if said is None and self._slow[slow.rank] >= WINDOWS:
            self._named[slow.rank] = slow
        elif said is not None and self._calm[slow.rank] >= WINDOWS:
            del self._named[slow.rank]
        elif said is not None and self._slow[slow.rank] and abs(slow.cost_s - said.cost_s) > NEWS * said.cost_s:
            self._named[slow.rank] = slow
