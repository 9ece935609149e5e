"""The dynamic loss scale of fp16: as large as the gradient stands it.

Rule: it is a function of norms that all ranks have agreed on, so it is the same on all ranks.
"""

from __future__ import annotations

import math

import torch

from deepseek_trainer.config import LossScaleSpec

SMALLEST, LARGEST = 1.0, 2.0**24


class LossScale:
    """The scale before the next step, a power of two away from the first one."""

    def __init__(self, spec: LossScaleSpec) -> None:
        self._growth_steps = spec.growth_steps
        self.state = {
            "scale": torch.tensor(spec.initial, dtype=torch.float64),
            "good_steps": torch.tensor(0, dtype=torch.int64),
        }
        """Of a checkpoint, in place."""

    @property
    def value(self) -> float:
        return float(self.state["scale"])

    def overflowed(self, loss: float, norm: float) -> bool:
        """Whether the gradient of a step outgrew fp16, which a smaller scale cures; it is smaller from now on.

        Args:
            loss: not scaled, over all ranks. One that is no number is not the scale's doing.
            norm: of the gradient, over all ranks.
        """
        scale, good_steps = self.state["scale"], self.state["good_steps"]
        if math.isfinite(norm):
            good_steps += 1
            if int(good_steps) == self._growth_steps:
                scale.mul_(2).clamp_(max=LARGEST)
                good_steps.zero_()
            return False
        good_steps.zero_()
        if not math.isfinite(loss) or self.value == SMALLEST:
            return False
        scale.div_(2).clamp_(min=SMALLEST)
        return True
