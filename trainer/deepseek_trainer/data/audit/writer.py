"""Keeping the audit while training: a copy into memory at each step, the disk's or the store's turn before a commit.

Rule: what a checkpoint contains is on the disk, or in the object store, before it is committed. What comes after the newest
checkpoint may be lost or torn with the process: it is trained anew, and those records never count.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepseek_trainer import durable
from deepseek_trainer.data.audit.records import Encoder, Header, LeaseRecord, Record, file_of
from deepseek_trainer.data.dynamic.runs import Run
from deepseek_trainer.errors import UnavailableError

_BUFFER_BYTES = 1 << 20
"""More than this is handed to the system between two checkpoints, without waiting for the disk."""


class AuditLog(ABC):
    """One rank's records of one start of training, in their order.

    A checkpoint cuts it between two steps, and then waits until they are kept, in a thread of its own if it likes.
    """

    def __init__(self, header: Header) -> None:
        self._encoder = Encoder(header)
        self._pending = bytearray(self._encoder.first)
        self._cut = False
        self._lock = threading.Lock()

    def record(self, step: int, samples: NDArray[np.int64], epochs: NDArray[np.int64]) -> None:
        """Notes what this rank has trained in an optimizer step that is done; each step once, in order.

        Args:
            step: optimizer steps done, with this one.
            samples: int64, shape (n,); n may be 0.
            epochs: int64, shape (n,); the epoch of each.

        Raises:
            UnavailableError: the volume is full, read-only or gone.
        """
        self._append(Record(step, samples, epochs))

    def record_runs(self, step: int, runs: Sequence[Run]) -> None:
        """The same in mode Dynamic.

        Args:
            step: optimizer steps done, with this one.
            runs: rows of this rank's own leases, in the order in which they were trained; may be empty.

        Raises:
            UnavailableError: the volume is full, read-only or gone.
        """
        self._append(LeaseRecord(step, tuple(runs), self._cut))
        self._cut = False

    def cut(self) -> None:
        """A checkpoint is made of the steps recorded so far."""
        self._cut = True

    @abstractmethod
    def sync(self) -> None:
        """Returns when everything that was recorded before is kept; for any thread. Before a checkpoint is committed.

        Raises:
            UnavailableError: the volume is full, read-only or gone; or the store refuses, or can't be reached.
        """

    def _append(self, record: Record | LeaseRecord) -> None:
        with self._lock:
            self._pending += self._encoder.record(record)


class AuditFile(AuditLog):
    """In a file on the checkpoint volume; it is made when it is first written."""

    def __init__(self, folder: Path, header: Header) -> None:
        """Args: folder: of the audit, on the checkpoint volume."""
        super().__init__(header)
        self._path = file_of(folder, header.start, header.rank)
        self._written = 0
        self._named = False

    def sync(self) -> None:
        try:
            self._write()
            durable.sync(self._path)
            if not self._named:
                for folder in (self._path.parent, self._path.parent.parent, self._path.parent.parent.parent):
                    durable.sync_folder(folder)
                self._named = True
        except OSError as error:
            raise self._unavailable(error) from error

    def _append(self, record: Record | LeaseRecord) -> None:
        super()._append(record)
        if len(self._pending) > _BUFFER_BYTES:
            try:
                self._write()
            except OSError as error:
                raise self._unavailable(error) from error

    def _write(self) -> None:
        """Hands what is pending to the system; what a full disk has torn is written anew, in its place."""
        with self._lock:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                if file.tell() > self._written:
                    file.truncate(self._written)
                file.write(self._pending)
                file.flush()
            self._written += len(self._pending)
            self._pending.clear()

    def _unavailable(self, error: OSError) -> UnavailableError:
        return UnavailableError(
            f"the audit can't be written to {self._path}: {error.strerror or error}; give the checkpoint volume room, "
            "or apply the job anew without data.audit"
        )
