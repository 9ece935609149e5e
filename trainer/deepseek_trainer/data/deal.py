"""A global batch dealt over the ranks, for any number of ranks.

Shares differ by one sample at most, unless they are given, and a rank's share is cut into equal micro-batches. Every
rank makes the same number of micro-steps, because each is a set of collectives: a rank that has run out gets an empty
micro-batch.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def micro_batches(
    samples: NDArray[np.int64],
    *,
    rank: int,
    world_size: int,
    micro_batch_size: int,
    shares: NDArray[np.int64] | None = None,
) -> list[NDArray[np.int64]]:
    """The micro-batches of one rank; some may be empty.

    Args:
        samples: int64, shape (global_batch,).
        micro_batch_size: the most samples in one of them.
        shares: int64, shape (world_size,): how many samples each rank gets, of all that there are; None: `even`.

    Returns:
        As many arrays on each rank; over all ranks they are `samples`, each once.
    """
    if shares is None:
        shares = even(len(samples), world_size)
    micro_steps = max(1, math.ceil(int(shares.max()) / micro_batch_size))
    begin = int(shares[:rank].sum())
    return np.array_split(samples[begin : begin + int(shares[rank])], micro_steps)


def even(samples: int, world_size: int) -> NDArray[np.int64]:
    """Shares that differ by one at most, the larger ones first; int64, shape (world_size,)."""
    return samples // world_size + (np.arange(world_size) < samples % world_size).astype(np.int64)
