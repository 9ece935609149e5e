"""The order of the samples: a keyed bijection of [0, n), computed position by position, that reads block after block.

    samples    | block 0 | block 1 | block 2 | … |short|     blockSamples neighbours each, the last one what is left
    the key permutes the blocks, and cuts them into windows of windowBlocks:
    order      | window 0: blocks 7 2 … | window 1: blocks 4 0 … | …
    inside a window all samples of its blocks are permuted together.

No list of indices exists, so that an epoch of any size starts at once, a resume is a seek of no cost, and the order
can't depend on the number of ranks or on what happened before. What is read at a time lies in the blocks of one window
(two, where they meet): each block is read once an epoch and as a whole, whatever the size of the data. Data that fits
into one window is shuffled completely.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from deepseek_trainer.data.permutation import Permutation


@dataclass(frozen=True)
class Order:
    """A permutation of range(size), the same wherever and whenever it is asked for.

    Attributes:
        size: number of samples, at least 1.
        key: whatever the order depends on, as text: fingerprint of the data, seed, epoch.
        block_samples: neighbouring samples that stay together in one window, at least 1.
        window_blocks: blocks whose samples are shuffled together, at least 1. The windows are of equal size as nearly
            as it goes, so none has more, and none is a small rest.
    """

    size: int
    key: str
    block_samples: int
    window_blocks: int

    def __post_init__(self) -> None:
        for name in ("size", "block_samples", "window_blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"an order needs {name} of at least one, not {getattr(self, name)}")

    def __getitem__(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sample at each position.

        Args:
            positions: int64, shape (n,), each in [0, size).

        Raises:
            IndexError: a position is outside of the order.
        """
        if positions.size and (positions.min() < 0 or positions.max() >= self.size):
            raise IndexError(f"positions {positions.min()}..{positions.max()} are not within [0, {self.size})")
        if self.windows == 1:
            return self._all[positions]
        first, place, within = self._mixed(positions)
        return self._block(first + place) * self.block_samples + within

    @property
    def windows(self) -> int:
        """How many there are."""
        return -(-self._blocks // self.window_blocks)

    def window(self, position: int) -> int:
        """The window that a position is in."""
        return int(self._window(self._padded(np.array([position])) // self.block_samples)[0])

    def span(self, window: int) -> tuple[int, int]:
        """The positions of a window: the first, and the one after the last."""
        first, after = self._first_place(np.array([window, window + 1])) * self.block_samples
        lacking = self._lacking
        return int(first) - lacking * (window > self._short_window), int(after) - lacking * (
            window >= self._short_window
        )

    def blocks(self, window: int) -> list[tuple[int, int]]:
        """The samples of each block of a window: the first, and the one after the last."""
        first, after = self._first_place(np.array([window, window + 1]))
        begins = self._block(np.arange(first, after)) * self.block_samples
        return [(begin, min(begin + self.block_samples, self.size)) for begin in begins.tolist()]

    # ---- in units of samples ----

    @cached_property
    def _lacking(self) -> int:
        """By how much the last block is shorter than the others."""
        return self._blocks * self.block_samples - self.size

    def _padded(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where positions would be if all blocks were whole."""
        end = (self._short_place + 1) * self.block_samples - self._lacking
        return np.where(positions < end, positions, positions + self._lacking)

    def _mixed(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """For each position the first place of its window, and after mixing the place in it and the sample in that."""
        padded = self._padded(positions)
        window = self._window(padded // self.block_samples)
        first, after = self._first_place(window), self._first_place(window + 1)
        sizes = (after - first) * self.block_samples - np.where(window == self._short_window, self._lacking, 0)
        mixed = self._inside.of(window, padded - first * self.block_samples, sizes)
        place, within = np.divmod(mixed, self.block_samples)
        return first, place, within

    # ---- in units of blocks: the block at a place is the key's choice ----

    @cached_property
    def _blocks(self) -> int:
        return -(-self.size // self.block_samples)

    @cached_property
    def _short_window(self) -> int:
        """The window whose last place has the last block, the one that may be short."""
        digest = hashlib.sha256(f"{self.key}:short".encode()).digest()
        return int.from_bytes(digest[:8], "big") % self.windows

    @cached_property
    def _short_place(self) -> int:
        return int(self._first_place(np.array([self._short_window + 1]))[0]) - 1

    def _first_place(self, window: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where a window begins: the first ones have one block more, if they can't all have the same number."""
        each, more = divmod(self._blocks, self.windows)
        return window * each + np.minimum(window, more)

    def _window(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        each, more = divmod(self._blocks, self.windows)
        return np.where(places < more * (each + 1), places // (each + 1), (places - more) // each)

    def _block(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        others = np.minimum(places - (places > self._short_place), self._blocks - 2)
        return np.where(places == self._short_place, self._blocks - 1, self._others[others])

    # ---- the permutations that it is made of ----

    @cached_property
    def _all(self) -> Permutation:
        return Permutation(self.size, self.key)

    @cached_property
    def _others(self) -> Permutation:
        """Of all blocks but the last."""
        return Permutation(self._blocks - 1, f"{self.key}:blocks")

    @cached_property
    def _inside(self) -> Permutation:
        """One for each window, of the samples in it."""
        return Permutation(min(self.size, self.window_blocks * self.block_samples), f"{self.key}:window")
