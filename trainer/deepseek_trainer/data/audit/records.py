"""The file in which one rank keeps the samples that it has trained in one start of training. Importable without torch.

    magic                  8 bytes
    frame, frame, …        length (uint32), crc32 (uint32), payload; the first payload is the header, as JSON
    payload of a step      step (int64), groups (uint32), and for each group:
                           epoch (int64), count (uint32), bytes of an id (uint8: 4 or 8), the ids

All numbers are little-endian. A file is only ever appended to, one frame a step, also for a step in which the rank had
no sample. Each checksum goes on from the one before it, so that a frame that was changed, left out, put elsewhere or
cut off ends what can be read of the file. A step costs 33 bytes, a sample 4 (8 where the data has 2^32 samples).
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from deepseek_trainer.checkpoint.layout import Start

MAGIC = b"dsjaud1\n"
_FRAME = struct.Struct("<II")
_STEP = struct.Struct("<qI")
_GROUP = struct.Struct("<qIB")
_CHUNK_BYTES = 1 << 18
_LARGEST_FRAME = 1 << 30
_SMALL_ID = 4
_LARGE_ID = 8


class DamagedError(Exception):
    """A file can't be read any further; the message says where and why."""


@dataclass(frozen=True)
class Header:
    """Whose file it is.

    Attributes:
        job: its UID.
        start: name of the start of training, as in resumes.jsonl.
        ledger: `Ledger.to_json()` at the step that the start began at.
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

    def belongs_to(self, start: Start, rank: int) -> bool:
        """Whether the file is that rank's of that start."""
        return self == Header.of(start, rank, self.ledger)


@dataclass(frozen=True)
class Record:
    """What one rank trained in one optimizer step: int64 arrays of one length, of samples and of their epochs."""

    step: int
    samples: NDArray[np.int64]
    epochs: NDArray[np.int64]


def file_of(folder: Path, start: str, rank: int) -> Path:
    """The file of a rank, in the audit's folder."""
    return folder / start / f"rank-{rank:05d}.ids"


class Encoder:
    """Makes the bytes of one file, in order; it keeps the checksum."""

    def __init__(self, header: Header) -> None:
        self._crc = zlib.crc32(MAGIC)
        self.first = MAGIC + self._frame(json.dumps(asdict(header), sort_keys=True).encode())

    def record(self, record: Record) -> bytes:
        """The frame of the next step."""
        parts = []
        for epoch, ids in _by_epoch(record):
            size = _SMALL_ID if ids.max() < 1 << 32 else _LARGE_ID
            parts += [_GROUP.pack(epoch, len(ids), size), ids.astype(f"<u{size}").tobytes()]
        return self._frame(_STEP.pack(record.step, len(parts) // 2) + b"".join(parts))

    def _frame(self, payload: bytes) -> bytes:
        self._crc = zlib.crc32(payload, self._crc)
        return _FRAME.pack(len(payload), self._crc) + payload


class Reader:
    """Reads one file from its beginning. It holds no file open between two reads: a job may have thousands of ranks."""

    def __init__(self, path: Path) -> None:
        """Reads the header.

        Raises:
            DamagedError: the file is missing, or is none of ours.
        """
        self.path = path
        self._offset = 0
        self._buffer, self._at = b"", 0
        self._crc = zlib.crc32(MAGIC)
        if self._take(len(MAGIC)) != MAGIC:
            raise DamagedError(f"{self._name} is no audit of this version")
        try:
            self.header = Header(**json.loads(self._frame()))
        except (ValueError, TypeError) as error:
            raise DamagedError(f"{self._name}: its header can't be read: {error}") from error

    def next(self) -> Record:
        """The record of the next step.

        Raises:
            DamagedError: there is none: the file ends here, or is torn or altered.
        """
        payload = self._frame()
        try:
            return _decode(payload)
        except (struct.error, ValueError) as error:
            raise DamagedError(f"{self._name}: a record before byte {self._place} can't be read: {error}") from error

    def __iter__(self) -> Iterator[Record]:
        """All records that can be read."""
        try:
            while True:
                yield self.next()
        except DamagedError:
            return

    def _frame(self) -> bytes:
        place = self._place
        length, crc = _FRAME.unpack(self._take(_FRAME.size))
        if length > _LARGEST_FRAME:
            raise DamagedError(f"{self._name} is altered at byte {place}")
        payload = self._take(length)
        self._crc = zlib.crc32(payload, self._crc)
        if self._crc != crc:
            raise DamagedError(f"{self._name} is torn or altered at byte {place}")
        return payload

    def _take(self, count: int) -> bytes:
        if len(self._buffer) - self._at < count:
            self._fill(count)
        taken = self._buffer[self._at : self._at + count]
        if len(taken) < count:
            raise DamagedError(f"{self._name} ends at byte {self._offset}")
        self._at += count
        return taken

    def _fill(self, count: int) -> None:
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                more = file.read(max(count, _CHUNK_BYTES))
        except OSError as error:
            raise DamagedError(f"{self._name} can't be read: {error.strerror or error}") from error
        self._offset += len(more)
        self._buffer, self._at = self._buffer[self._at :] + more, 0

    @property
    def _place(self) -> int:
        return self._offset - len(self._buffer) + self._at

    @property
    def _name(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}"


def _by_epoch(record: Record) -> Iterator[tuple[int, NDArray[np.int64]]]:
    samples, epochs = record.samples, record.epochs
    if len(epochs) and (epochs == epochs[0]).all():  # nearly every step
        yield int(epochs[0]), samples
        return
    for epoch in np.unique(epochs):
        yield int(epoch), samples[epochs == epoch]


def _decode(payload: bytes) -> Record:
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
