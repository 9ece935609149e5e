"""A run of Weights & Biases, sent or kept in files; one for all starts of a job."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Sequence

from deepseek_trainer.tracking.memo import Memo
from deepseek_trainer.tracking.record import Place, Record

SURE_S = 30.0
"""How old a record must be to be safe: W&B's own process writes each 15 s, and what it has then is lost if it is killed."""


class WandB:
    """The run; W&B's own process sends it. Records of one step are one row, which is complete when the next one comes."""

    def __init__(self, place: Place, after: int | None) -> None:
        import wandb

        self._memo = Memo.of(place, "wandb", after)
        self._memo.run = self._memo.run or uuid.uuid4().hex
        self._unsure: deque[tuple[float, int]] = deque()
        """When which step was told, as long as it could be lost."""
        self._run = wandb.init(
            project=place.project,
            id=self._memo.run,
            name=place.job,
            dir=str(place.directory),
            mode="offline" if place.offline else None,
            resume="allow",  # offline too: without the mark `wandb sync` writes a later start over an earlier one
            config=place.config,
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._memo.keep(self._memo.told)

    def write(self, records: Sequence[Record]) -> None:
        now = time.monotonic()
        for one in self._memo.new(records):
            self._run.log({**one.values, **one.texts}, step=one.step)
            self._unsure.append((now, one.step))
        sure = None
        while self._unsure and self._unsure[0][0] < now - SURE_S:
            sure = self._unsure.popleft()[1]
        if sure is not None:
            self._memo.keep(sure)

    def close(self) -> None:
        self._run.finish()
        if self._unsure:
            self._memo.keep(self._unsure[-1][1])
