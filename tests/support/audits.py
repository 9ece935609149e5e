"""Training without a model that keeps an audit, and lies in one with right checksums: what only the count can find."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from deepseek_trainer import durable
from deepseek_trainer.checkpoint import layout, load
from deepseek_trainer.checkpoint.layout import Manifest, Start
from deepseek_trainer.data.audit.records import Encoder, Header, LeaseRecord, Reader, Record, file_of
from deepseek_trainer.data.audit.writer import AuditFile
from deepseek_trainer.data.deal import micro_batches
from deepseek_trainer.data.ledger import Ledger

SAMPLES, BATCH = 20, 6


class Training:
    """A job's training without a model: the trainer's own ledger, writer and records, on as many ranks as asked for.

    It goes on from the newest committed checkpoint, as the trainer does, unless it is told of another.
    """

    def __init__(
        self,
        folder: Path,
        ranks: int = 2,
        *,
        generation: int = 1,
        samples: int = SAMPLES,
        batch: int = BATCH,
        audited: bool = True,
        fall_back_to: int | None = None,
        fingerprint: str = "f" * 64,
    ) -> None:
        self.folder, self.ranks, self.generation = folder, ranks, generation
        self.ledger = Ledger(fingerprint, samples, "stream:32", 0, batch)
        found = newest(folder, fall_back_to)
        if found is not None:
            self.ledger = self.ledger.continued_from(found.manifest.ledger, allow_change=True)
        self.start, self.logs = begin(folder, ranks, generation, found, self.ledger.to_json(), audited=audited)

    def steps(self, count: int = 1) -> Training:
        for _ in range(count):
            batch = self.ledger.batch()
            self.ledger = self.ledger.advance(batch)
            for rank, log in enumerate(self.logs):
                mine = micro_batches(
                    np.arange(len(batch.samples)), rank=rank, world_size=self.ranks, micro_batch_size=2
                )
                places = np.concatenate(mine)
                log.record(self.ledger.step, batch.samples[places], batch.epochs[places])
        return self

    def sync(self) -> Training:
        if self.start.audited:
            for log in self.logs:
                log.sync()
        return self

    def save(self) -> Training:
        self.sync()
        checkpoint(self.folder, self.start, self.ledger.to_json())
        return self

    def file(self, rank: int = 0) -> Path:
        return file_of(self.folder / layout.AUDIT, self.start.start, rank)


def begin(
    folder: Path,
    ranks: int,
    generation: int,
    found: load.Found[Any] | None,
    ledger: dict[str, Any],
    *,
    audited: bool = True,
) -> tuple[Start, list[AuditFile]]:
    """A start of training from that checkpoint, on record, and the ranks' files of it."""
    start = load.new_start(
        job="uid-1", generation=generation, attempt=generation, found=found, world_size=ranks, audited=audited
    )
    load.record_start(folder, start)
    return start, [AuditFile(folder / layout.AUDIT, Header.of(start, rank, ledger)) for rank in range(ranks)]


def newest(folder: Path, step: int | None = None) -> load.Found[Any] | None:
    """The newest checkpoint, or that of a step."""
    paths = [path for at, path in layout.checkpoints(folder) if step is None or at == step]
    return load.Found(paths[0], layout.read_manifest(paths[0])) if paths else None


def checkpoint(folder: Path, start: Start, ledger: dict[str, Any]) -> None:
    """Commits a checkpoint without weights."""
    step = ledger["step"]
    manifest = Manifest(
        *(1, "job", step, start.generation, start.generation, start.world_size, ledger, {}, {}, {}, 0.1, ""),
        start=start.start,
    )
    commit(layout.checkpoint_folder(folder, step), manifest.to_json())


def commit(path: Path, manifest: dict[str, Any]) -> None:
    """Writes a manifest, and the mark that it is whole."""
    path.mkdir(parents=True, exist_ok=True)
    (path / layout.MANIFEST).write_text(json.dumps(manifest))
    (path / layout.COMMITTED).write_text(durable.describe(path / layout.MANIFEST)["sha256"])


def rewrite(path: Path, change: Callable[[list[Record]], list[Record]]) -> None:
    """Puts other records into a rank's file."""
    reader = Reader(path)
    _write(path, reader.header, change([record for record in reader if isinstance(record, Record)]))


def rewrite_runs(path: Path, change: Callable[[list[LeaseRecord]], list[LeaseRecord]]) -> None:
    """The same in mode Dynamic."""
    reader = Reader(path)
    _write(path, reader.header, change([record for record in reader if isinstance(record, LeaseRecord)]))


def _write(path: Path, header: Header, records: Sequence[Record | LeaseRecord]) -> None:
    encoder = Encoder(header)
    path.write_bytes(encoder.first + b"".join(encoder.record(record) for record in records))
