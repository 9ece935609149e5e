"""Training without a model in mode Dynamic that keeps an audit: the trainer's own ledger, leases and records."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from deepseek_trainer.checkpoint import layout
from deepseek_trainer.data.audit.records import file_of
from deepseek_trainer.data.dynamic.leases import Lease, LeaseBook
from deepseek_trainer.data.dynamic.ledger import LeaseLedger
from deepseek_trainer.data.dynamic.runs import Run
from support.audits import begin, checkpoint, newest

ROWS = (5, 3, 0, 7, 4)
"""Training rows of each shard of a source; one has none."""


class Leasing:
    """One start of training; it goes on from the newest committed checkpoint, as the trainer does."""

    def __init__(
        self,
        folder: Path,
        ranks: int = 2,
        *,
        generation: int = 1,
        rows: Sequence[int] = ROWS,
        stream: bool = False,
        batch: int = 6,
        fingerprint: str = "f" * 64,
    ) -> None:
        self.folder, self.rows, self.batch = folder, rows, batch
        self.ledger = LeaseLedger(fingerprint, "shards:32", 0, batch, 0 if stream else len(rows))
        found = newest(folder)
        if found is not None:
            self.ledger = self.ledger.continued_from(found.manifest.ledger, allow_change=True)
        self.start, self.logs = begin(folder, ranks, generation, found, self.ledger.to_json())
        self.step = self.ledger.step
        self._book, self._places = LeaseBook(self.ledger), itertools.count()
        self._held: list[Lease | None] = [None] * ranks
        self._runs: list[Run] = []

    def steps(self, count: int = 1) -> Leasing:
        """Each rank trains its share of each batch from leases of its own; nobody takes over the share of one that has none."""
        for _ in range(count):
            self.step += 1
            for rank, log in enumerate(self.logs):
                share = self.batch // len(self.logs) + (rank < self.batch % len(self.logs))
                runs = self._train(rank, share)
                log.record_runs(self.step, runs)
                self._runs += runs
        return self

    def sync(self) -> Leasing:
        for log in self.logs:
            log.sync()
        return self

    def save(self) -> Leasing:
        for log in self.logs:
            log.cut()
        self.sync()
        self.ledger = self.ledger.cut(self.step, _joined(self._runs))
        self._runs = []
        checkpoint(self.folder, self.start, self.ledger.to_json())
        return self

    def file(self, rank: int = 0) -> Path:
        return file_of(self.folder / layout.AUDIT, self.start.start, rank)

    def _train(self, rank: int, share: int) -> list[Run]:
        runs: list[Run] = []
        while share > 0:
            lease = self._held[rank] or self._book[next(self._places)]
            if not self.ledger.shards and lease.number >= len(self.rows):
                return runs  # the stream has ended
            rows = self.rows[lease.number % len(self.rows)]
            stop = min(lease.offset + share, rows)
            runs.append(Run(lease.number, lease.offset, stop, stop == rows))
            share -= stop - lease.offset
            self._held[rank] = None if stop == rows else lease._replace(offset=stop)
        return runs


def _joined(runs: list[Run]) -> list[Run]:
    """One run a lease: each is trained by one rank, step after step."""
    by_lease = [list(of) for _, of in itertools.groupby(sorted(runs), key=lambda run: run.lease)]
    return [Run(of[0].lease, of[0].first, of[-1].stop, of[-1].ends) for of in by_lease]
