"""How many samples of each global batch a rank gets where that follows its pace (`data.batching.dealing: ByPace`).

What a step trains on doesn't change, only who computes it: a rank that took longer for its share gets a smaller one,
until all work for about as long. Shares are agreed on each EVERY steps, from what all ranks measured, and hold from
LAG steps later, because batches are loaded ahead. They are no part of a checkpoint: each start begins with even ones.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from deepseek_trainer.data import deal

log = logging.getLogger(__name__)

EVERY = 32
AHEAD = 16
"""Micro-batches that may be made ahead: a step has one at least."""
LAG = AHEAD + 2
TOLERANCE = 0.1
"""By so much more than the mean rank the slowest has to work before shares change."""


class Shares:
    """The shares of one start, the same on every rank."""

    def __init__(self, samples: int, world_size: int, gather: Callable[[float], list[float]]) -> None:
        """Begins with even shares.

        Args:
            samples: of a global batch.
            gather: every rank's value, on every rank; a collective.
        """
        self._gather = gather
        self._held: list[tuple[int, NDArray[np.int64]]] = [(0, deal.even(samples, world_size))]
        self._busy_s: list[float] = []

    def of(self, step: int) -> NDArray[np.int64]:
        """The samples of each rank in the step after so many; int64, shape (world_size,). For any thread."""
        return next(shares for since, shares in reversed(self._held) if since <= step)

    def stepped(self, step: int, busy_s: float) -> None:
        """Has the ranks agree anew, if it is time, and logs new shares. To be called by all after each step.

        Args:
            step: steps that were made.
            busy_s: seconds of this rank's own work in the last one; NaN where that was not measured.
        """
        since, before = self._held[-1]
        if since < step and not math.isnan(busy_s):  # with the newest shares
            self._busy_s.append(busy_s)
        if step % EVERY:
            return
        mean_s, self._busy_s = float(np.mean(self._busy_s or [math.nan])), []  # what others wait for is the sum
        after = balanced(before, np.array(self._gather(mean_s)))
        if (after == before).all():
            return
        self._held = [*self._held[-1:], (step + LAG, after)]
        log.info("dealing by pace: samples of each rank: %s", ",".join(map(str, after)))


def balanced(shares: NDArray[np.int64], busy_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Shares with which the ranks would work for as long as each other, if a sample costs a rank what it did.

    Args:
        shares: int64, shape (world_size,).
        busy_s: seconds that each rank worked with them.

    Returns:
        As many in all, and at least one for each rank: else nothing could be measured of it any more. The same shares
        when the times are about equal, or one isn't known.
    """
    if not np.isfinite(busy_s).all() or (busy_s <= 0).any() or (shares < 1).any():
        return shares
    if busy_s.max() <= (1 + TOLERANCE) * busy_s.mean():
        return shares
    pace = shares / busy_s
    left = int(shares.sum()) - len(shares)
    wanted = 1 + left * pace / pace.sum()
    whole = np.floor(wanted).astype(np.int64)
    rest = int(shares.sum() - whole.sum())
    whole[np.argsort(whole - wanted, kind="stable")[:rest]] += 1  # to those who lost most by rounding
    return whole
