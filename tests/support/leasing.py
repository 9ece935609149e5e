"""Training without a model in mode Dynamic that keeps an audit; its ledger is computed here, apart from the trainer's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deepseek_trainer.checkpoint import layout, load
from deepseek_trainer.data.audit.records import Header, file_of
from deepseek_trainer.data.audit.writer import AuditLog
from deepseek_trainer.data.dynamic.runs import Run, link
from deepseek_trainer.data.ledger import GENESIS
from support.audits import checkpoint, newest

ROWS = (5, 3, 0, 7, 4)
"""Training rows of each shard of a source; one has none."""


@dataclass(frozen=True)
class LeaseLedger:
    """What was trained of each lease."""

    fingerprint: str
    shards: int
    batch: int
    step: int = 0
    from_step: int = 0
    chain: str = GENESIS
    rows: dict[int, int] = field(default_factory=dict)
    ended: frozenset[int] = frozenset()

    @property
    def low(self) -> int:
        return next(lease for lease in itertools.count() if lease not in self.ended)

    @property
    def done(self) -> list[tuple[int, int]]:
        return [(lease, self.rows[lease]) for lease in sorted(self.ended) if lease >= self.low]

    @property
    def open(self) -> list[tuple[int, int]]:
        return [(lease, rows) for lease, rows in sorted(self.rows.items()) if lease not in self.ended]

    @property
    def samples(self) -> int:
        return sum(self.rows.values())

    def leases(self) -> Iterator[tuple[int, int]]:
        """Those that are left, without end: number, and rows trained."""
        return ((lease, self.rows.get(lease, 0)) for lease in itertools.count() if lease not in self.ended)

    def cut(self, step: int, runs: Sequence[Run]) -> LeaseLedger:
        rows = {**self.rows, **{run.lease: run.stop for run in sorted(runs)}}
        ended = self.ended | {run.lease for run in runs if run.ends}
        return replace(self, step=step, chain=link(self.chain, runs), rows=rows, ended=ended)

    def to_json(self) -> dict[str, Any]:
        """As the trainer's has it."""
        fixed = {"mode": "Dynamic", "layout": "shards:32", "seed": 0, "global_batch": self.batch}
        names = ("fingerprint", "shards", "step", "from_step", "chain", "low", "done", "open", "samples")
        return {**fixed, **{name: getattr(self, name) for name in names}, "segments": []}


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
        self.ledger = LeaseLedger(fingerprint, 0 if stream else len(rows), batch)
        found = newest(folder)
        if found is not None:
            self.ledger = self._continued(found.manifest.ledger)
        self.start = load.record_start(
            folder,
            job="uid-1",
            generation=generation,
            attempt=generation,
            found=found,
            world_size=ranks,
            audited=True,
        )
        self.step = self.ledger.step
        self.logs = [
            AuditLog(folder / layout.AUDIT, Header.of(self.start, rank, self.ledger.to_json())) for rank in range(ranks)
        ]
        self._left = self.ledger.leases()
        self._held: list[tuple[int, int] | None] = [None] * ranks
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
        self.sync()
        self.ledger = self.ledger.cut(self.step, self._runs)
        self._runs = []
        checkpoint(self.folder, self.start, self.ledger.to_json())
        return self

    def file(self, rank: int = 0) -> Path:
        return file_of(self.folder / layout.AUDIT, self.start.start, rank)

    def _continued(self, saved: dict[str, Any]) -> LeaseLedger:
        mine = replace(self.ledger, step=saved["step"], chain=saved["chain"])
        if any(saved.get(name) != mine.to_json()[name] for name in ("mode", "fingerprint", "shards")):
            return replace(mine, from_step=mine.step)
        ended = dict(saved["done"]) | {lease: self.rows[lease % len(self.rows)] for lease in range(saved["low"])}
        rows = ended | dict(saved["open"])
        return replace(mine, from_step=saved["from_step"], rows=rows, ended=frozenset(ended))

    def _train(self, rank: int, share: int) -> list[Run]:
        runs: list[Run] = []
        while share > 0:
            lease, offset = self._held[rank] or next(self._left)
            if not self.ledger.shards and lease >= len(self.rows):
                return runs  # the stream has ended
            rows = self.rows[lease % len(self.rows)]
            stop = min(offset + share, rows)
            runs.append(Run(lease, offset, stop, stop == rows))
            share -= stop - offset
            self._held[rank] = None if stop == rows else (lease, stop)
        return runs
