"""What becomes of a step's gradient: the loss scale taken out, clipped, handed to the optimizer, averaged, bounded.

    begin      the learning rate of the step
    scale      by which the loss is multiplied before the backward pass (fp16; else 1)
    clip       the global norm
    overflowed whether fp16 could not hold the gradient
    apply      the weights change        or        leave: they don't

Rule: what all this remembers from step to step is in `optimizer` and `state`, and both are saved with the weights.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from deepseek_trainer.config import TrainerSpec
from deepseek_trainer.distributed.clipping import clipped
from deepseek_trainer.distributed.waits import Waits
from deepseek_trainer.distributed.world import World
from deepseek_trainer.optim import optimizer, schedule
from deepseek_trainer.optim.ema import Ema
from deepseek_trainer.optim.loss_scale import LossScale
from deepseek_trainer.optim.spectral import SpectralCap


class Update:
    """The updates of one start of training. All ranks call the same methods after the same steps."""

    def __init__(
        self, model: nn.Module, spec: TrainerSpec, world: World, waits: Waits, elsewhere: Collection[str] = ()
    ) -> None:
        """A collective. The model is sharded already.

        Args:
            elsewhere: names of the parameters that other stages of a pipeline have.

        Raises:
            ConfigError: the spectral cap is of no matrix of this model.
        """
        chosen, training = spec.optimizer, spec.training
        self.optimizer = optimizer.make(model, chosen, waits.collective)
        self._model, self._spec, self._total_steps, self._waits = model, chosen, training.steps, waits
        self._world = world
        self._loss_scale = LossScale(training.loss_scale) if training.precision == "fp16" else None
        self._ema = Ema(model, chosen.ema) if chosen.ema is not None else None
        self._cap = SpectralCap(model, chosen.spectral_cap, elsewhere) if chosen.spectral_cap is not None else None

    @property
    def scale(self) -> float:
        """Of the loss, in this step."""
        return self._loss_scale.value if self._loss_scale is not None else 1.0

    @property
    def state(self) -> dict[str, dict[str, torch.Tensor]]:
        """What it remembers beside the optimizer's state, to be saved; what is read into it is what it remembers."""
        parts = {"ema": self._ema, "loss_scale": self._loss_scale, "spectral_cap": self._cap}
        return {name: part.state for name, part in parts.items() if part is not None}

    def restored(self, lacking: frozenset[str]) -> None:
        """The weights are those of a checkpoint.

        Args:
            lacking: parts of `state` that it doesn't have: they begin anew.
        """
        if self._ema is not None and "ema" in lacking:
            self._ema.begin()

    def begin(self, step: int) -> float:
        """Sets the learning rate of the step with this number, from 0."""
        rate = schedule.learning_rate(self._spec, step=step, total_steps=self._total_steps)
        optimizer.set_learning_rate(self.optimizer, rate)
        return rate

    def clip(self) -> float:
        """Has the optimizer take the scale out of the gradient and clip it; its norm before. A collective."""
        found = clipped(self._model.parameters(), self._spec.gradient_clip, self._world, scale=self.scale)
        self.optimizer.gradient_factor = found.factor
        return found.norm

    def overflowed(self, loss: float, norm: float) -> str | None:
        """Why the gradient is none because of fp16; None: it is not because of that. The scale is adapted."""
        scale = self.scale
        if self._loss_scale is None or not self._loss_scale.overflowed(loss, norm):
            return None
        return f"fp16 could not hold the gradient with a loss scale of {scale:g}"

    def apply(self, step: int) -> None:
        """Changes the weights by the gradient; the step is the one with this number, from 0. A collective."""
        with self._waits.part("optimizer"):
            self.optimizer.step()
            if self._cap is not None:
                with self._waits.collective():
                    self._cap.apply()
            if self._ema is not None:
                self._ema.update(step)
            self.optimizer.zero_grad()

    def leave(self) -> None:
        """Changes nothing; the gradient is gone."""
        self.optimizer.zero_grad()

    @contextmanager
    def evaluated_weights(self) -> Iterator[None]:
        """In here the model has the weights that are to be evaluated."""
        if self._ema is None or self._spec.ema is None or not self._spec.ema.evaluate:
            yield
            return
        with self._ema.swapped():
            yield
