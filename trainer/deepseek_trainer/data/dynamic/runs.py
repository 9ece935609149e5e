"""What was trained of a lease, as runs of rows; the names of its samples, and the chain of them.

A lease is one shard in one turn. Its training rows have a training order, the same on every rank and after any fault,
and are trained in it from 0 on without holes. So a few numbers say which rows were trained.
"""

from __future__ import annotations

import hashlib
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


def append(runs: list[Run], run: Run) -> None:
    """Adds a run; to the last one, where it goes on with that."""
    if runs and (runs[-1].lease, runs[-1].stop) == (run.lease, run.first):
        run = run._replace(first=runs.pop().first)
    runs.append(run)


def ids(runs: Sequence[Run]) -> NDArray[np.int64]:
    """The samples of runs: lease * 2**20 + place in training order; int64, run after run."""
    made = [
        np.arange(run.lease * ROWS_MAX + run.first, run.lease * ROWS_MAX + run.stop, dtype=np.int64) for run in runs
    ]
    return np.concatenate(made) if made else np.zeros(0, np.int64)


def link(chain: str, runs: Sequence[Run]) -> str:
    """The chain after a cut before which these runs were trained, since the cut before; without a row it stays as it is."""
    used = np.sort(ids(runs))
    return hashlib.sha256(bytes.fromhex(chain) + used.astype(">i8").tobytes()).hexdigest() if len(used) else chain
