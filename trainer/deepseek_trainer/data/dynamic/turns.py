"""The shards of a source whose size is known, turn after turn, each in an order of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from deepseek_trainer.data.dynamic.ledger import LeaseLedger
from deepseek_trainer.data.parts import Part
from deepseek_trainer.data.permutation import Permutation


class Turns:
    """What lease n is: shard `order(n // S)[n % S]` of S."""

    def __init__(self, parts: Sequence[Part], key: str) -> None:
        """Args: key: what the order depends on."""
        self._parts, self._key = parts, key
        self.count: int | None = len(parts)

    def part(self, lease: int) -> Part:
        turn, place = divmod(lease, len(self._parts))
        return self._parts[self._in_order(f"{self._key}:{turn}", place)]

    def evaluated(self) -> Iterator[Part]:
        """All shards, in the order in which their held-out rows are evaluated on."""
        for place in range(len(self._parts)):
            yield self._parts[self._in_order(f"{self._key}:evaluated", place)]

    def files(self, ledger: LeaseLedger) -> dict[str, Any]:
        """The fingerprint has the files."""
        return {}

    def forget(self, low: int) -> None:
        """A later turn needs them again."""

    def close(self) -> None:
        """There is nothing to close."""

    def _in_order(self, key: str, place: int) -> int:
        return int(Permutation(len(self._parts), key)[np.array([place])][0])
