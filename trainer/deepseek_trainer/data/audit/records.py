"""The file in which one rank keeps the samples that it has trained in one start of training. Importable without torch.

    the first frame        the header, as JSON; the data's mode, which its ledger says, tells what the others are
    a step, by position    step (int64), groups (uint32), and for each group:
                           epoch (int64), count (uint32), bytes of an id (uint8: 4 or 8), the ids
    a step, by leases      step (int64), runs (uint32), cut (uint8), and for each run:
                           lease (int64), first row (uint32), row behind the last (uint32), ends (uint8)

Frames and their checksums: see `frames`. All numbers are little-endian. There is one frame a step, also for a step in
which the rank had no sample. By position a step costs 33 bytes, a sample 4 (8 where the data has 2^32 samples); by leases
a step 21 and a run 17, however many rows it has.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from deepseek_trainer.checkpoint.layout import Start
from deepseek_trainer.data.audit.frames import MAGIC, DamagedError, FrameReader, FrameWriter
from deepseek_trainer.data.dynamic.runs import Run

_STEP = struct.Struct("<qI")
_GROUP = struct.Struct("<qIB")
_RUNS = struct.Struct("<qI?")
_RUN = struct.Struct("<qII?")
_SMALL_ID = 4
_LARGE_ID = 8


@dataclass(frozen=True)
class Header:
    """Whose file it is.

    Attributes:
        job: its UID.
        start: name of the start of training, as in resumes.jsonl.
        ledger: in JSON, at the step that the start began at.
    """

    job: str
    start: str
    generation: int
    attempt: int
    rank: int
    world_size: int
    ledger: dict[str, Any]

    @classmethod
    def of(cls, start: Start, rank: int, ledger: dict[str, Any]) -> Self:
        """The header of a rank's file in a start of training."""
        return cls(start.job, start.start, start.generation, start.attempt, rank, start.world_size, ledger)

    @property
    def by_leases(self) -> bool:
        """Whether the mode is Dynamic. Ledgers of trainers that had one mode only name none."""
        return is_dynamic(self.ledger)

    def belongs_to(self, start: Start, rank: int) -> bool:
        """Whether the file is that rank's of that start."""
        return self == Header.of(start, rank, self.ledger)


def is_dynamic(ledger: dict[str, Any]) -> bool:
    """Whether a ledger, in JSON, is of mode Dynamic."""
    return bool(ledger.get("mode") == "Dynamic")


@dataclass(frozen=True)
class Record:
    """What one rank trained in one optimizer step: int64 arrays of one length, of samples and of their epochs."""

    step: int
    samples: NDArray[np.int64]
    epochs: NDArray[np.int64]


@dataclass(frozen=True)
class LeaseRecord:
    """What one rank trained in one optimizer step of mode Dynamic.

    Attributes:
        cut: a checkpoint was made between the step before and this one.
    """

    step: int
    runs: tuple[Run, ...]
    cut: bool


def file_of(folder: Path, start: str, rank: int) -> Path:
    """The file of a rank, in the audit's folder."""
    return folder / start / f"rank-{rank:05d}.ids"


class Encoder:
    """Makes the bytes of one file, in order."""

    def __init__(self, header: Header) -> None:
        self._frames = FrameWriter()
        self.first = MAGIC + self._frames.frame(json.dumps(asdict(header), sort_keys=True).encode())

    def record(self, record: Record | LeaseRecord) -> bytes:
        """The frame of the next step."""
        return self._frames.frame(_runs(record) if isinstance(record, LeaseRecord) else _groups(record))


class Reader:
    """Reads one file from its beginning."""

    def __init__(self, path: Path) -> None:
        """Reads the header.

        Raises:
            DamagedError: the file is missing, or is none of ours.
        """
        self.path = path
        self._frames = FrameReader(path)
        try:
            self.header = Header(**json.loads(self._frames.frame()))
        except (ValueError, TypeError) as error:
            raise DamagedError(f"{self._frames.name}: its header can't be read: {error}") from error

    def next(self) -> Record | LeaseRecord:
        """The record of the next step; of which kind, the header says.

        Raises:
            DamagedError: there is none: the file ends here, or is torn or altered.
        """
        payload = self._frames.frame()
        try:
            return _lease_record(payload) if self.header.by_leases else _record(payload)
        except (struct.error, ValueError) as error:
            place = self._frames.place
            raise DamagedError(f"{self._frames.name}: a record before byte {place} can't be read: {error}") from error

    def __iter__(self) -> Iterator[Record | LeaseRecord]:
        """All records that can be read."""
        try:
            while True:
                yield self.next()
        except DamagedError:
            return


def _groups(record: Record) -> bytes:
    parts = []
    for epoch, ids in _by_epoch(record):
        size = _SMALL_ID if ids.max() < 1 << 32 else _LARGE_ID
        parts += [_GROUP.pack(epoch, len(ids), size), ids.astype(f"<u{size}").tobytes()]
    return _STEP.pack(record.step, len(parts) // 2) + b"".join(parts)


def _by_epoch(record: Record) -> Iterator[tuple[int, NDArray[np.int64]]]:
    samples, epochs = record.samples, record.epochs
    if len(epochs) and (epochs == epochs[0]).all():  # nearly every step
        yield int(epochs[0]), samples
        return
    for epoch in np.unique(epochs):
        yield int(epoch), samples[epochs == epoch]


def _runs(record: LeaseRecord) -> bytes:
    return _RUNS.pack(record.step, len(record.runs), record.cut) + b"".join(_RUN.pack(*run) for run in record.runs)


def _record(payload: bytes) -> Record:
    step, groups = _STEP.unpack_from(payload)
    place = _STEP.size
    samples, epochs = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for _ in range(groups):
        epoch, count, size = _GROUP.unpack_from(payload, place)
        place += _GROUP.size
        if size not in (_SMALL_ID, _LARGE_ID):
            raise ValueError(f"ids of {size} bytes")
        samples.append(np.frombuffer(payload, f"<u{size}", count, place).astype(np.int64))
        epochs.append(np.full(count, epoch, np.int64))
        place += count * size
    if place != len(payload):
        raise ValueError(f"{len(payload) - place} bytes too many")
    return Record(step, np.concatenate(samples), np.concatenate(epochs))


def _lease_record(payload: bytes) -> LeaseRecord:
    step, count, cut = _RUNS.unpack_from(payload)
    if len(payload) != _RUNS.size + count * _RUN.size:
        raise ValueError(f"{count} runs in {len(payload)} bytes")
    return LeaseRecord(step, tuple(Run(*fields) for fields in _RUN.iter_unpack(payload[_RUNS.size :])), cut)
