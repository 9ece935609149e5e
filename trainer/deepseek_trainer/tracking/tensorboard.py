"""Event files for TensorBoard, in the folder tensorboard of the directory.

They can't be cut: each start writes a file of its own, whose first event has TensorBoard leave out what earlier files have
from its first step on (`purge_step`).
"""

from __future__ import annotations

from collections.abc import Sequence

from deepseek_trainer.tracking.record import Place, Record


class TensorBoard:
    """One start's event file."""

    def __init__(self, place: Place, after: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        first = 0 if after is None else after + 1
        self._writer = SummaryWriter(str(place.directory / "tensorboard"), purge_step=first)

    def write(self, records: Sequence[Record]) -> None:
        for one in records:
            for name, value in one.values.items():
                self._writer.add_scalar(name, value, one.step, walltime=one.time_s)
            for name, text in one.texts.items():
                self._writer.add_text(name, text, one.step, walltime=one.time_s)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
