"""How often each row of each lease was trained, in mode Dynamic: exact counts, in a few ranges a lease that is open.

Leases that are whole, and all leases before them, are one range together: memory goes by what is open, not by what was
trained. What the records come to is compared with what the checkpoint's ledger says of each lease.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, Self

from deepseek_trainer.data.audit.frames import DamagedError
from deepseek_trainer.data.audit.spans import Spans, total
from deepseek_trainer.data.audit.tally import EXAMPLES
from deepseek_trainer.data.dynamic.runs import ROWS_MAX, Run


@dataclass(frozen=True)
class Said:
    """What a ledger says was trained.

    Attributes:
        samples: in all.
        shards: of the source; 0: a stream.
        low: all leases below it are done.
        rows: trained of each lease from `low` on of which any were.
        done: those of them that have no more rows.
    """

    samples: int
    shards: int
    low: int
    rows: dict[int, int]
    done: frozenset[int]

    @classmethod
    def of(cls, ledger: dict[str, Any]) -> Self:
        """Raises: DamagedError: the ledger can't be read."""
        try:
            done = {int(lease): int(rows) for lease, rows in ledger["done"]}
            opened = {int(lease): int(rows) for lease, rows in ledger["open"]}
            samples, shards, low = int(ledger["samples"]), int(ledger["shards"]), int(ledger["low"])
            return cls(samples, shards, low, opened | done, frozenset(done))
        except (KeyError, ValueError, TypeError) as error:
            raise DamagedError(f"the ledger's leases can't be read: {error!r}") from error


@dataclass
class Compared:
    """The records beside a ledger.

    Attributes:
        lost: rows that must have been trained, and of which there is no record.
        endless: leases that are done, and of which no record has the end: how many of their rows are lost isn't known.
        strange: rows that were trained and that the ledger doesn't have, or behind their shard's end.
        examples: of lost rows: (lease, row).
    """

    lost: int = 0
    endless: int = 0
    strange: int = 0
    examples: list[tuple[int, int]] = field(default_factory=list)

    def lose(self, lease: int, ranges: list[tuple[int, int]]) -> None:
        self.lost += total(ranges)
        rows = itertools.chain.from_iterable(range(*one) for one in ranges)
        self.examples += [(lease, row) for row in itertools.islice(rows, EXAMPLES - len(self.examples))]


@dataclass
class LeaseTally:
    """Counts the runs of a segment, step after step, in any order of leases.

    Attributes:
        shards: of the source; 0: a stream.
        rows: different ones that were trained.
        whole: leases of which every row was trained.
        repeated: times that a row was trained again.
        strange: rows that no lease can have, or that are behind another end of the same shard.
        repeated_examples: (step of the second time, lease, row).
    """

    shards: int
    rows: int = 0
    whole: Spans = field(default_factory=Spans)
    repeated: int = 0
    strange: int = 0
    repeated_examples: list[tuple[int, int, int]] = field(default_factory=list)
    _rows: dict[int, Spans] = field(default_factory=dict)
    _ends: dict[int, int] = field(default_factory=dict)
    _low: int = 0
    _epochs: dict[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def opened(self) -> int:
        """Leases of which some rows were trained, but not all."""
        return len(self._rows)

    @property
    def epochs(self) -> int:
        """Passes over the source of which every row was trained."""
        return sum(leases == self.shards for leases, _ in self._epochs.values())

    @property
    def problems(self) -> list[str]:
        """Epochs that had another number of rows than the first one."""
        sizes = {epoch: rows for epoch, (leases, rows) in self._epochs.items() if leases == self.shards}
        first = min(sizes, default=0)
        return [
            f"epoch {epoch} had {rows:,} rows, epoch {first} {sizes[first]:,}: a shard has ended too early, or too late"
            for epoch, rows in sorted(sizes.items())
            if rows != sizes[first]
        ]

    def add(self, step: int, run: Run) -> None:
        """Counts what one rank trained of a lease in a step."""
        lease, first, stop, ends = run
        if lease < 0 or not 0 <= first <= stop <= ROWS_MAX:
            self.strange += max(1, stop - first)
            return
        if lease in self.whole:
            self._again(step, lease, [(first, stop)])
            return
        if first == stop and not ends:
            return
        rows = self._rows.setdefault(lease, Spans())
        again = rows.add(first, stop)
        self._again(step, lease, again)
        self.rows += stop - first - total(again)
        if ends:
            self.strange += abs(stop - self._ends.setdefault(lease, stop))
        end = self._ends.get(lease)
        if end is not None and rows.stop <= end and not any(rows.holes(end)):
            self._complete(lease)

    def compare(self, said: Said) -> Compared:
        """What the records of all steps come to, if the ledger after them is this one."""
        found = Compared()
        behind = [lease for lease in self._rows if lease < said.low]
        found.endless = total(self.whole.holes(said.low)) - len(behind)
        for lease in sorted(behind):
            self._compare_open(lease, self._ends.get(lease), found)
            found.endless += lease not in self._ends
        for lease, rows in sorted(said.rows.items()):
            if lease in self.whole:
                found.strange += max(abs(self._ends.get(lease, rows) - rows), lease not in said.done)
                continue
            self._compare_open(lease, rows, found)
            found.endless += lease in said.done and self._ends.get(lease) != rows
        for lease, spans in self._rows.items():
            if lease >= said.low and lease not in said.rows:
                found.strange += total(spans)
        for first, stop in self.whole:
            unsaid = [lease for lease in range(max(first, said.low), stop) if lease not in said.rows]
            found.strange += sum(self._ends.get(lease, 1) for lease in unsaid)
        found.lost = max(found.lost, said.samples - self.rows)
        found.strange = max(found.strange, self.rows - said.samples)
        return found

    def holes(self) -> Compared:
        """What was passed over in the leases that were begun: all that can be said where no ledger is left."""
        found = Compared()
        for lease in sorted(self._rows):
            self._compare_open(lease, self._ends.get(lease, self._rows[lease].stop), found)
        return found

    def _compare_open(self, lease: int, rows: int | None, found: Compared) -> None:
        """A lease that isn't whole, of which so many rows must have been trained; None: as many as there are."""
        spans = self._rows.get(lease, Spans())
        due = spans.stop if rows is None else rows
        missing = list(spans.holes(due))
        found.lose(lease, missing)
        found.strange += total(spans) - (due - total(missing))

    def _complete(self, lease: int) -> None:
        if self.shards:
            leases, rows = self._epochs.get(lease // self.shards, (0, 0))
            self._epochs[lease // self.shards] = leases + 1, rows + self._ends[lease]
        self.whole.add(lease, lease + 1)
        del self._rows[lease]
        first, stop = next(iter(self.whole))
        if first == 0 and stop > self._low:
            for passed in [lease for lease in self._ends if lease < stop]:
                del self._ends[passed]
            self._low = stop

    def _again(self, step: int, lease: int, ranges: list[tuple[int, int]]) -> None:
        self.repeated += total(ranges)
        rows = itertools.chain.from_iterable(range(*one) for one in ranges)
        room = EXAMPLES - len(self.repeated_examples)
        self.repeated_examples += [(step, lease, row) for row in itertools.islice(rows, room)]
