"""A global batch of samples of different lengths, cut into micro-batches of about one length and dealt over the ranks.

Samples that are about as long go together, because a micro-batch is padded to its longest. Which samples the batch has
doesn't depend on any of this. Every rank makes the same number of micro-steps, the fewest that the budget allows, and
then the cut is the one with the smallest largest micro-batch: nobody pads, or waits for others, more than that takes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def micro_batches(widths: NDArray[np.int64], *, rank: int, world_size: int, budget: int) -> list[NDArray[np.int64]]:
    """The micro-batches of one rank; some may be empty.

    Args:
        widths: int64, shape (global_batch,): the tokens of each sample's row, rounded up as they will be padded.
        budget: the most tokens in a micro-batch, padding included; a longer sample is one by itself.

    Returns:
        Places in the batch, in as many arrays on each rank; over all ranks each place once.
    """
    by_width = np.argsort(-widths, kind="stable")
    falling = widths[by_width]
    least, most = min(budget, int(falling[0])), budget
    steps = -(-len(_cut(falling, most)) // world_size)
    while least < most:  # the smallest budget that needs no more micro-batches than all ranks make
        middle = (least + most) // 2
        fits = len(_cut(falling, middle)) <= steps * world_size
        least, most = (least, middle) if fits else (middle + 1, most)
    begins = _cut(falling, least)
    parts = np.split(by_width, begins[1:])
    costs = [int(falling[begin]) * len(part) for begin, part in zip(begins, parts, strict=True)]
    costliest = sorted(range(len(parts)), key=lambda part: -costs[part])
    mine = []
    for step in range(steps):  # to and fro, so that who gets the largest of one step gets the smallest of the next
        place = step * world_size + (rank if step % 2 == 0 else world_size - 1 - rank)
        mine.append(parts[costliest[place]] if place < len(costliest) else by_width[:0])
    return mine


def _cut(falling: NDArray[np.int64], budget: int) -> list[int]:
    """Where each micro-batch begins: as many samples as the budget has room for at the width of the first."""
    begins, begin = [], 0
    while begin < len(falling):
        begins.append(begin)
        begin += max(1, budget // int(falling[begin]))
    return begins
