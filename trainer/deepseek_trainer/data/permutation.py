"""Keyed bijections of [0, n), computed number by number: no list exists, whatever n is.

A Feistel network permutes the smallest range of 4^k numbers that holds n; a result outside of [0, n) is permuted again
until it falls inside (cycle walking), which keeps the map one to one. See Black and Rogaway, "Ciphers with Arbitrary
Finite Domains", 2002. A tweak beside the key gives a family of permutations that share the key's schedule; see Liskov,
Rivest and Wagner, "Tweakable Block Ciphers", 2002. Nothing here is meant to keep a secret.
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

Unsigned = NDArray[np.uint64]


@dataclass(frozen=True)
class Permutation:
    """A permutation of range(size), and a family of permutations of shorter ranges beside it.

    Attributes:
        size: how many numbers, at least 1.
        key: whatever the permutation depends on, as text.
    """

    size: int
    key: str

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"a permutation needs at least one number, not {self.size}")

    def __getitem__(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """What each value becomes.

        Args:
            values: int64, any shape, each in [0, size).

        Raises:
            IndexError: a value is outside.
        """
        if values.size and (values.min() < 0 or values.max() >= self.size):
            raise IndexError(f"{values.min()}..{values.max()} are not within [0, {self.size})")
        return self._walk(values, np.full_like(values, self.size), np.uint64(0))

    def of(self, members: NDArray[np.int64], values: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """What each value becomes under the permutation of range(sizes[i]) that has the number members[i].

        Args:
            members: int64, shape (n,); which permutation of the family.
            values: int64, shape (n,), each in [0, sizes[i]).
            sizes: int64, shape (n,), each in [1, size]; the same for the same member.
        """
        return self._walk(values, sizes, _mix(members.astype(np.uint64) + np.uint64(1)))

    def _walk(
        self, values: NDArray[np.int64], sizes: NDArray[np.int64], tweak: Unsigned | np.uint64
    ) -> NDArray[np.int64]:
        limits = sizes.astype(np.uint64)
        walked = self._permute(values.astype(np.uint64), tweak)
        outside = walked >= limits
        while outside.any():
            walked[outside] = self._permute(walked[outside], tweak[outside] if isinstance(tweak, np.ndarray) else tweak)
            outside = walked >= limits
        return walked.astype(np.int64)

    @cached_property
    def _half_bits(self) -> np.uint64:
        return np.uint64(max(1, ((self.size - 1).bit_length() + 1) // 2))

    @cached_property
    def _round_keys(self) -> tuple[np.uint64, ...]:
        digests = (hashlib.sha256(f"{self.key}:{i}".encode()).digest() for i in range(ROUNDS))
        return tuple(np.uint64(int.from_bytes(digest[:8], "big")) for digest in digests)

    def _permute(self, values: Unsigned, tweak: Unsigned | np.uint64) -> Unsigned:
        half = self._half_bits
        mask = np.uint64((1 << int(half)) - 1)
        left, right = values >> half, values & mask
        for round_key in self._round_keys:
            mixed = _mix(right ^ (round_key ^ tweak))
            mixed &= mask
            mixed ^= left
            left, right = right, mixed
        return (left << half) | right


def _mix(values: Unsigned) -> Unsigned:
    """A 64-bit avalanche: each input bit changes each output bit with probability near one half."""
    mixed = values ^ (values >> _SHIFT)
    mixed *= _MULTIPLIER_1
    mixed ^= mixed >> _SHIFT
    mixed *= _MULTIPLIER_2
    mixed ^= mixed >> _SHIFT
    return mixed
