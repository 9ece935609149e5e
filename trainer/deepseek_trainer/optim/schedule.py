"""The learning rate: linear warm-up, then cosine decay; a pure function of the step, so that a resume needs no state."""

from __future__ import annotations

import math

from deepseek_trainer.config import OptimizerSpec


def learning_rate(spec: OptimizerSpec, *, step: int, total_steps: int) -> float:
    """The rate of optimizer step `step`, counted from 0."""
    if step < spec.warmup_steps:
        return spec.learning_rate * (step + 1) / spec.warmup_steps
    done = (step - spec.warmup_steps) / max(1, total_steps - spec.warmup_steps)
    ratio = spec.min_learning_rate_ratio
    return spec.learning_rate * (ratio + (1 - ratio) * (1 + math.cos(math.pi * min(1.0, done))) / 2)
