"""Keeping the audit while training: a copy into memory at each step, the disk's turn before a checkpoint is committed.

Rule: what a checkpoint contains is on the disk here before it is committed. What comes after the newest checkpoint may
be lost or torn with the process: it is trained anew, and those records never count.
"""

from __future__ import annotations

import os
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


class AuditLog:
    """One rank's file of one start of training; it is made when it is first written."""

    def __init__(self, folder: Path, header: Header) -> None:
        """Args: folder: of the audit, on the checkpoint volume."""
        self._path = file_of(folder, header.start, header.rank)
        self._encoder = Encoder(header)
        self._pending = bytearray(self._encoder.first)
        self._named = False
        self._cut = False

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

    def sync(self) -> None:
        """Returns when everything that was recorded is on the disk. To be called before a checkpoint, and only then.

        Raises:
            UnavailableError: the volume is full, read-only or gone.
        """
        self._write(wait=True)
        self._cut = True

    def _append(self, record: Record | LeaseRecord) -> None:
        self._pending += self._encoder.record(record)
        if len(self._pending) > _BUFFER_BYTES:
            self._write(wait=False)

    def _write(self, *, wait: bool) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(self._pending)
                file.flush()
                if wait:
                    os.fsync(file.fileno())
            if wait and not self._named:
                for folder in (self._path.parent, self._path.parent.parent, self._path.parent.parent.parent):
                    durable.sync_folder(folder)
                self._named = True
        except OSError as error:
            raise UnavailableError(
                f"the audit can't be written to {self._path}: {error.strerror or error}; give the checkpoint volume room, "
                "or apply the job anew without data.audit"
            ) from error
        self._pending.clear()
