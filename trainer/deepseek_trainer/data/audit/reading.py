"""What all ranks of one start trained, read from their files in step; only what is whole, and of this start, is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from deepseek_trainer.checkpoint import layout
from deepseek_trainer.checkpoint.layout import Start
from deepseek_trainer.data.audit.frames import DamagedError
from deepseek_trainer.data.audit.lineage import Part
from deepseek_trainer.data.audit.records import LeaseRecord, Reader, Record, file_of
from deepseek_trainer.data.dynamic.runs import Run
from deepseek_trainer.data.ledger import Batch

Kind = TypeVar("Kind", Record, LeaseRecord)


class Evidence:
    """The records of one part of the lineage.

    Attributes:
        first, last: its steps.
        ledger: with which the start began, as all of its ranks say.
    """

    def __init__(self, audit: Path, part: Part) -> None:
        """Opens the file of every rank.

        Args:
            audit: the audit's folder.

        Raises:
            DamagedError: one is missing, can't be read, or is of another start or rank.
        """
        self.first, self.last = part.first, part.last
        start = _audited(part)
        self._readers = [_opened(audit, start, rank) for rank in range(start.world_size)]
        _require_no_other(audit, start)
        self.ledger: dict[str, Any] = self._readers[0].header.ledger
        for reader in self._readers:
            if reader.header.ledger != self.ledger or self.ledger.get("step") != part.first - 1:
                raise DamagedError(f"{reader.path.name} began at another step, or with other data, than its start did")

    def batches(self) -> Iterator[Batch]:
        """What was trained in each step, of all ranks together, where it was given out by position.

        Raises:
            DamagedError: the records of the next step can't be read.
        """
        for step in range(self.first, self.last + 1):
            records = self._all(step, Record)
            yield Batch(
                samples=np.concatenate([record.samples for record in records]),
                epochs=np.concatenate([record.epochs for record in records]),
            )

    def runs(self) -> Iterator[tuple[list[Run], bool]]:
        """The same where it was given out by leases; and whether a checkpoint was made after the step, as after the last.

        Raises:
            DamagedError: the records of the next step can't be read, or the ranks don't agree about the checkpoint.
        """
        before: list[Run] | None = None
        for step in range(self.first, self.last + 1):
            try:
                records = self._all(step, LeaseRecord)
                cut = _agreed([record.cut for record in records], step)
            except DamagedError:
                if before is not None:
                    yield before, False
                raise
            if before is not None:
                yield before, cut
            before = [run for record in records for run in record.runs]
        if before is not None:
            yield before, True

    def _all(self, step: int, kind: type[Kind]) -> list[Kind]:
        return [_next(reader, step, kind) for reader in self._readers]


def _audited(part: Part) -> Start:
    if part.start is None:
        raise DamagedError(f"{layout.RESUMES} doesn't tell which start trained them")
    if not part.start.audited:
        raise DamagedError(f"data.audit was not on in start {part.start.start}")
    return part.start


def _opened(audit: Path, start: Start, rank: int) -> Reader:
    reader = Reader(file_of(audit, start.start, rank))
    if not reader.header.belongs_to(start, rank):
        raise DamagedError(f"{start.start}/{reader.path.name} is of another rank or start: {reader.header.start}")
    return reader


def _require_no_other(audit: Path, start: Start) -> None:
    mine = {file_of(audit, start.start, rank).name for rank in range(start.world_size)}
    others = sorted(path.name for path in (audit / start.start).iterdir() if path.name not in mine)
    if others:
        raise DamagedError(f"{start.start} had {start.world_size} ranks, but there is {others[0]}")


def _next(reader: Reader, step: int, kind: type[Kind]) -> Kind:
    record, name = reader.next(), f"{reader.path.parent.name}/{reader.path.name}"
    if not isinstance(record, kind):
        raise DamagedError(f"{name} is of another mode than its ledger")
    if record.step != step:
        raise DamagedError(f"{name} has step {record.step} where {step} belongs")
    return record


def _agreed(cuts: list[bool], step: int) -> bool:
    if len(set(cuts)) > 1:
        raise DamagedError(f"the ranks don't agree whether a checkpoint was made before step {step}")
    return cuts[0]
