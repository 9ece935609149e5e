"""Whether a step may change the weights, by its loss and the norm of its gradient, which all ranks have agreed on.

A loss that is no number, or is far above the last ones, is answered before the update, by what the config says. What is
left out has been consumed: the ledger, the audit and the learning rate go on as if the step had been made.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection

import torch

from deepseek_trainer.config import GuardSpec
from deepseek_trainer.errors import RollbackError, TrainerError

log = logging.getLogger(__name__)

_REMEDY = "lower trainer.optimizer.learningRate, or lengthen trainer.optimizer.warmupSteps"


class Guard:
    """The judgement of one start of training; the same on all ranks."""

    def __init__(self, spec: GuardSpec, left_out: Collection[int] = ()) -> None:
        """Args:
        left_out: numbers of steps that change nothing, from 1.
        """
        self._spec, self._left_out = spec, frozenset(left_out)
        self.state = {
            "losses": torch.full((spec.window_steps,), math.inf, dtype=torch.float64),
            "skipped": torch.tensor(0, dtype=torch.int64),
            "in_a_row": torch.tensor(0, dtype=torch.int64),
        }
        """The last losses, oldest first (inf: there were not so many), and steps left out; of a checkpoint, in place."""

    @property
    def skipped(self) -> int:
        """Steps of the job that were left out."""
        return int(self.state["skipped"])

    def refuses(self, step: int, loss: float, norm: float) -> str | None:
        """Why the step with this number, from 1, must not change the weights; None: it may.

        Raises:
            TrainerError: training can't go on with it.
            RollbackError: it goes on from the last checkpoint, without this step.
        """
        if step in self._left_out:
            return self.leaves_out("it is left out since a rollback")
        problem, policy = self._problem(loss, norm)
        if problem is None or policy == "Ignore":
            self._accept(loss)
            return None
        if policy == "Rollback":
            raise RollbackError(f"{problem} in step {step}: back to the last checkpoint", self._bad(step))
        in_a_row = int(self.state["in_a_row"]) + 1
        if policy == "Fail":
            raise TrainerError(f"{problem} in step {step}; {_REMEDY}")
        if in_a_row > self._spec.max_skipped_steps:
            raise TrainerError(
                f"{problem} in step {step}, and so it was in {in_a_row - 1} steps before it "
                f"(trainer.training.guard.maxSkippedSteps); {_REMEDY}"
            )
        self.state["in_a_row"].fill_(in_a_row)
        return self.leaves_out(problem)

    def leaves_out(self, why: str) -> str:
        """Counts a step that changes nothing; why, as it is told."""
        self.state["skipped"] += 1
        return why

    def _problem(self, loss: float, norm: float) -> tuple[str | None, str]:
        """What is wrong with a step, and what is to be done about it."""
        for what, value in (("the loss", loss), ("the norm of the gradient", norm)):
            if not math.isfinite(value):
                return f"{what} is {value}", self._spec.on_non_finite
        losses = self.state["losses"]
        mean, deviation = float(losses.mean()), float(losses.std(correction=0))
        if loss > mean + self._spec.spike_deviations * deviation:  # never, as long as there are too few
            return (
                f"the loss is {loss:.6g}, after {mean:.6g} +- {deviation:.2g} in the steps before",
                self._spec.on_spike,
            )
        return None, "Ignore"

    def _accept(self, loss: float) -> None:
        losses = self.state["losses"]
        losses.copy_(torch.cat([losses[1:], losses.new_tensor([loss])]))
        self.state["in_a_row"].zero_()

    def _bad(self, step: int) -> range:
        return range(max(1, step - self._spec.rollback_steps + 1), step + 1)
