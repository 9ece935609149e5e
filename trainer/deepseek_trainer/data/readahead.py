"""The disk's part of the order: the blocks of the next window are read before they are due, each as a whole.

A window's samples come in random order. To read each when it is touched is a wait of its own, in which the system reads
far more than the sample, as it guesses that the neighbours come next. Here it is told what comes: nothing is guessed,
and the blocks of the next window are asked for little by little while the present one is trained. What is asked for and
not used, after a fault or a change, has cost a read and nothing else. Data of one window is left to the system.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from deepseek_trainer.data.ledger import Ledger
from deepseek_trainer.data.order import Order
from deepseek_trainer.data.samples import Samples

_GAP_BYTES = 1 << 17
"""What lies between two pieces is read too if it is less: one longer read costs less than two."""

Advise = Callable[[int, int], None]
"""Asks for bytes of the token file: offset and length."""


class ReadAhead:
    """Follows one ledger through a store; not for several threads."""

    def __init__(self, data: Samples, advise: Advise) -> None:
        self._data, self._advise = data, advise
        self._at: tuple[str, int] | None = None
        self._next: tuple[str, int] | None = None
        self._waiting: list[tuple[int, int]] = []
        """Blocks of the next window that were not asked for yet."""
        self._blocks = 0

    def follow(self, ledger: Ledger) -> None:
        """The next batch of this ledger is about to be read."""
        order, offset = ledger.order(ledger.epoch), ledger.position % ledger.samples
        if order.windows == 1:
            return
        window = order.window(offset)
        if self._at != (order.key, window):
            self._enter(order, window, ledger)
        begin, end = order.span(window)
        left = max(0, end - offset - ledger.global_batch) * self._blocks // (end - begin)
        while len(self._waiting) > left:
            self._ask(*self._waiting.pop())

    def _enter(self, order: Order, window: int, ledger: Ledger) -> None:
        self._at = (order.key, window)
        for block in self._waiting if self._at == self._next else order.blocks(window):
            self._ask(*block)
        last = window + 1 == order.windows
        coming, first = (ledger.order(ledger.epoch + 1), 0) if last else (order, window + 1)
        self._next, self._waiting = (coming.key, first), sorted(coming.blocks(first), reverse=True)
        self._blocks = len(self._waiting)

    def _ask(self, first: int, after: int) -> None:
        """For the samples of a block."""
        starts, ends = self._data.extents(np.arange(first, after))
        size = self._data.store.tokens.itemsize
        for start, end in _merged(starts * size, ends * size):
            self._advise(start, end - start)


def of(data: Samples, ledger: Ledger) -> ReadAhead | None:
    """Reads a store's mapped file ahead, into the memory that all processes of the node share; None for one window."""
    mapped: object = data.store.tokens.base
    if ledger.order(ledger.epoch).windows == 1 or not isinstance(mapped, mmap.mmap):
        return None
    mapped.madvise(mmap.MADV_RANDOM)  # a fault reads what it is for

    def advise(offset: int, length: int) -> None:
        begin = offset - offset % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, begin, min(offset + length, len(mapped)) - begin)

    return ReadAhead(data, advise)


def _merged(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges as few as it goes, ascending."""
    by_start = np.argsort(starts)
    starts, reached = starts[by_start], np.maximum.accumulate(ends[by_start])
    apart = np.flatnonzero(starts[1:] > reached[:-1] + _GAP_BYTES) + 1
    firsts, lasts = starts[np.concatenate([[0], apart])], reached[np.concatenate([apart - 1, [len(reached) - 1]])]
    yield from zip(firsts.tolist(), lasts.tolist(), strict=True)
