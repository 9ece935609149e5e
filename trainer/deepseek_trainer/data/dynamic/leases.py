"""Who gets which shard: a lease is one shard in one turn, and each is given out once in a start of training.

The book is the same on every rank: what the ledger leaves to be trained, in order. What tells the ranks apart is one
counter in the store that they met in: the k-th to add to it has the k-th lease of the book. The counter lives and dies
with the start, and its name is the start's own: a rank of an older one counts elsewhere, and what it trains reaches no
ledger. So no lease is taken back, times out or is acknowledged.
"""

from __future__ import annotations

from typing import NamedTuple

from torch.distributed import Store  # type: ignore[attr-defined]  # exported by a star

from deepseek_trainer.data.dynamic.ledger import LeaseLedger


class Lease(NamedTuple):
    """A shard to be trained.

    Attributes:
        number: which; of a source of S shards it is the shard's turn * S + its place in that turn's order, of a stream
            the order of arrival.
        offset: rows of it that are trained already.
        mark: a hash of what those rows were read from; empty where there are none.
    """

    number: int
    offset: int = 0
    mark: str = ""


class LeaseBook:
    """All leases that a ledger leaves to be trained, by their place in a row that has no end."""

    def __init__(self, ledger: LeaseLedger) -> None:
        done, self._open, self._marks = dict(ledger.done), dict(ledger.open), dict(ledger.marks)
        self._first = [number for number in range(ledger.low, ledger.top) if number not in done]
        self._top = ledger.top

    def __getitem__(self, place: int) -> Lease:
        if place >= len(self._first):
            return Lease(self._top + place - len(self._first))
        number = self._first[place]
        return Lease(number, self._open.get(number, 0), self._marks.get(number, ""))


class Desk:
    """Gives leases out, to whichever rank asks; for any thread."""

    def __init__(self, book: LeaseBook, store: Store, start: str) -> None:
        """Args: start: a name that no other start of training has."""
        self._book, self._store, self._key = book, store, f"data/{start}/leases"

    def take(self) -> Lease:
        """The next lease; nobody else gets it."""
        return self._book[self._store.add(self._key, 1) - 1]

    def coming(self, count: int) -> list[Lease]:
        """What would be given out next."""
        first = self._store.add(self._key, 0)
        return [self._book[place] for place in range(first, first + count)]
