"""The order of the samples: a keyed bijection of [0, n), computed position by position.

No list of indices exists, so that an epoch of any size starts at once, a resume is a seek of no cost, and the
order can't depend on the number of ranks or on what happened before. A Feistel network permutes the smallest
range of 4^k numbers that holds n; a result outside of [0, n) is permuted again until it falls inside (cycle
walking), which keeps the map one to one. See Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

ROUNDS = 6
_MULTIPLIER_1 = np.uint64(0xFF51AFD7ED558CCD)  # the finaliser of MurmurHash3
_MULTIPLIER_2 = np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT = np.uint64(33)


@dataclass(frozen=True)
class Order:
    """A permutation of range(size), the same wherever and whenever it is asked for.

    Attributes:
        size: number of samples, at least 1.
        key: whatever the order depends on, as text: fingerprint of the data, seed, epoch.
    """

    size: int
    key: str

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"an order needs at least one sample, not {self.size}")

    def __getitem__(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sample at each position.

        Args:
            positions: int64, any shape, each in [0, size).

        Raises:
            IndexError: a position is outside of the order.
        """
        if positions.size and (positions.min() < 0 or positions.max() >= self.size):
            raise IndexError(f"positions {positions.min()}..{positions.max()} are not within [0, {self.size})")
        values = self._permute(positions.astype(np.uint64))
        outside = values >= self.size
        while outside.any():
            values[outside] = self._permute(values[outside])
            outside = values >= self.size
        return values.astype(np.int64)

    @cached_property
    def _half_bits(self) -> np.uint64:
        return np.uint64(max(1, ((self.size - 1).bit_length() + 1) // 2))

    @cached_property
    def _round_keys(self) -> tuple[np.uint64, ...]:
        digests = (hashlib.sha256(f"{self.key}:{i}".encode()).digest() for i in range(ROUNDS))
        return tuple(np.uint64(int.from_bytes(digest[:8], "big")) for digest in digests)

    def _permute(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        half = self._half_bits
        mask = np.uint64((1 << int(half)) - 1)
        left, right = values >> half, values & mask
        for round_key in self._round_keys:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        return (left << half) | right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A 64-bit avalanche: each input bit changes each output bit with probability near one half."""
    values = (values ^ (values >> _SHIFT)) * _MULTIPLIER_1
    values = (values ^ (values >> _SHIFT)) * _MULTIPLIER_2
    return values ^ (values >> _SHIFT)
