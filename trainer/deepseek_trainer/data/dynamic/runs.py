"""What was trained of a lease, as runs of rows; and the names of its samples.

A lease is one shard in one turn. Its training rows have a training order, the same on every rank and after any fault,
and are trained in it from 0 on without holes. So a few numbers say which rows were trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ROWS_MAX = 2**20
"""Training rows of a shard, at most: what the name of a sample leaves room for."""


class Run(NamedTuple):
    """Rows [first, stop) of a lease, in training order.

    Attributes:
        ends: the shard has no more rows.
    """

    lease: int
    first: int
    stop: int
    ends: bool


def ids(runs: Sequence[Run]) -> NDArray[np.int64]:
    """The samples of runs: lease * 2**20 + place in training order; int64, run after run."""
    made = [
        np.arange(run.lease * ROWS_MAX + run.first, run.lease * ROWS_MAX + run.stop, dtype=np.int64) for run in runs
    ]
    return np.concatenate(made) if made else np.zeros(0, np.int64)
