"""Whole documents packed into rows: best-fit decreasing, within bounded windows of the corpus.

A window is packed by itself, so any number of documents is packed in memory for one window, and a row's pieces lie near
each other in the store. Equal lengths are placed together, which gives what placing them one by one would, and makes the
cost one of the distinct lengths and not of the documents. Deterministic. See Johnson, "Near-optimal bin packing
algorithms", 1973.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WINDOW = 2**16
"""Pieces that are packed together. Of another window come other rows."""


def rows(lengths: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    """The row of each piece; rows are numbered in the order of their first pieces.

    Args:
        lengths: int64, shape (pieces,), each in [1, capacity].
    """
    owners = np.empty(len(lengths), np.int64)
    free: dict[int, list[int]] = {}  # rows by the room that they have left
    rooms = 0  # the same as bits: bit r is set when a row has room r
    count = 0
    if not len(lengths):
        return owners
    by_length = np.argsort(-lengths, kind="stable")
    values, starts = np.unique(-lengths[by_length], return_index=True)
    for length, items in zip((-values).tolist(), np.split(by_length, starts[1:]), strict=True):
        placed = 0
        while placed < len(items):
            above = rooms >> length
            room = length + (above & -above).bit_length() - 1 if above else capacity
            each = room // length
            wanted = -(-(len(items) - placed) // each)
            if above:
                there = free[room]
                chosen = there[-wanted:]
                del there[-wanted:]
                if not there:
                    rooms &= ~(1 << room)
            else:
                chosen = list(range(count, count + wanted))
                count += wanted
            taken = items[placed : placed + each * len(chosen)]
            owners[taken] = np.repeat(chosen, each)[: len(taken)]
            placed += len(taken)
            last = len(taken) - each * (len(chosen) - 1)  # in the last of them, which may have room for more
            for left, these in ((room - each * length, chosen[:-1]), (room - last * length, chosen[-1:])):
                if left and these:
                    free.setdefault(left, []).extend(these)
                    rooms |= 1 << left
    _, first, numbers = np.unique(owners, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[numbers]
