"""An exponential moving average of the weights (Polyak): less noise than the weights of any one step.

After step t it is decay * average + (1 - decay) * weights, beginning with the weights before the first step. decay is
smaller in the first steps, so that the beginning is forgotten. Shards stay where they are: no rank needs another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from deepseek_trainer.config import EmaSpec
from deepseek_trainer.distributed import shards


class Ema:
    """The average of all parameters that are trained, in their type."""

    def __init__(self, model: nn.Module, spec: EmaSpec) -> None:
        self._model, self._spec = model, spec
        self._weights = shards.trained_parameters(model)
        self.state = {name: weight.detach().clone() for name, weight in self._weights.items()}
        """By parameter name; of a checkpoint, in place."""

    @torch.no_grad()
    def begin(self) -> None:
        """It begins with the weights as they are."""
        for name, average in self.state.items():
            average.copy_(self._weights[name])

    @torch.no_grad()
    def update(self, step: int) -> None:
        """A step is made, which was the one with this number, from 0."""
        averages, weights = self._pairs()
        torch._foreach_lerp_(averages, weights, 1 - decay(self._spec, step))

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """In here the model has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for average, weight in zip(*self._pairs(), strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
        shards.forget_gathered(self._model)

    def _pairs(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """This rank's shards of averages and weights."""
        names = list(self.state)
        averages = [shards.local(self.state[name]) for name in names]
        return averages, [shards.local(self._weights[name].detach()) for name in names]


def decay(spec: EmaSpec, step: int) -> float:
    """What the step with this number, from 0, leaves of the average."""
    return min(spec.decay, (1 + step) / (10 + step))
