"""How many rows each rank trains in a step, where a rank may lack some."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepseek_trainer.data import deal


def dealt(shares: NDArray[np.int64], available: NDArray[np.int64], *, ended: bool) -> NDArray[np.int64] | None:
    """The rows of each rank, int64, shape (world_size,); the same on each rank, as it is asked the same.

    A rank that has less than its share is helped out by those that have more, evenly, so that a batch is whole whenever
    there are rows for it.

    Args:
        shares: as they should be.
        available: what each rank has.
        ended: whether none of them will ever have more: then the batch may be short.

    Returns:
        None: to be asked again, once somebody has more.
    """
    if available.sum() < shares.sum():
        return available if ended else None
    rows = np.minimum(shares, available)
    while missing := int(shares.sum() - rows.sum()):
        able = np.flatnonzero(available > rows)
        rows[able] += np.minimum(available[able] - rows[able], deal.even(missing, len(able)))
    return rows
