"""A global batch dealt over the ranks, for any number of ranks.

Shares differ by one sample at most, and a rank's share is cut into equal micro-batches. Every rank makes the same
number of micro-steps, because each is a set of collectives: a rank that has run out gets an empty micro-batch and
makes its step with weight zero.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def micro_batches(
    samples: NDArray[np.int64], *, rank: int, world_size: int, micro_batch_size: int
) -> list[NDArray[np.int64]]:
    """The micro-batches of one rank; some may be empty.

    Args:
        samples: int64, shape (global_batch,).
        micro_batch_size: the most samples in one of them.

    Returns:
        As many arrays on each rank; over all ranks they are `samples`, each once.
    """
    largest_share = math.ceil(len(samples) / world_size)
    micro_steps = max(1, math.ceil(largest_share / micro_batch_size))
    return np.array_split(np.array_split(samples, world_size)[rank], micro_steps)
