"""A run of Weights & Biases, sent or kept in files; one for all starts of a job."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from deepseek_trainer.tracking.memo import Memo
from deepseek_trainer.tracking.record import Place, Record


class WandB:
    """The run; W&B's own process sends it."""

    def __init__(self, place: Place, after: int | None) -> None:
        import wandb

        self._memo = Memo.of(place, "wandb", after)
        self._memo.run = self._memo.run or uuid.uuid4().hex
        self._run = wandb.init(
            project=place.project,
            id=self._memo.run,
            name=place.job,
            dir=str(place.directory),
            mode="offline" if place.offline else None,
            resume=None if place.offline else "allow",
            config=place.config,
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._memo.keep(self._memo.told)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, records: Sequence[Record]) -> None:
        new = self._memo.new(records)
        for one in new:
            self._run.log({"step": one.step, **one.values, **one.texts})
        if new:
            self._memo.keep(new[-1].step)

    def close(self) -> None:
        self._run.finish()
