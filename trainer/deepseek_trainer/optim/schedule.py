"""The learning rate: linear warm-up, then a schedule; a pure function of the step, so that a resume needs no state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from deepseek_trainer.config import OptimizerSpec


def learning_rate(spec: OptimizerSpec, *, step: int, total_steps: int) -> float:
    """The rate of optimizer step `step`, counted from 0."""
    if step < spec.warmup_steps:
        return spec.learning_rate * (step + 1) / spec.warmup_steps
    floor = spec.min_learning_rate_ratio
    height = SHAPES[spec.schedule.kind](spec, step, total_steps)
    return spec.learning_rate * (floor + (1 - floor) * height)


def _cosine(spec: OptimizerSpec, step: int, total_steps: int) -> float:
    return (1 + math.cos(math.pi * _done(step, spec.warmup_steps, total_steps))) / 2


def _linear(spec: OptimizerSpec, step: int, total_steps: int) -> float:
    return 1 - _done(step, spec.warmup_steps, total_steps)


def _stable_then_decay(spec: OptimizerSpec, step: int, total_steps: int) -> float:
    """Hu et al. 2024 (MiniCPM): the stable part can be prolonged, and any checkpoint of it decayed."""
    begin = max(spec.warmup_steps, total_steps - round(spec.schedule.decay_share * total_steps))
    return 1 - _done(step, begin, total_steps)


def _constant(spec: OptimizerSpec, step: int, total_steps: int) -> float:
    return 1.0


SHAPES: Mapping[str, Callable[[OptimizerSpec, int, int], float]] = {
    "Cosine": _cosine,
    "Linear": _linear,
    "WSD": _stable_then_decay,
    "Constant": _constant,
}
"""By kind: how far the rate of a step after the warm-up is above its floor; 1 is the peak, 0 the floor."""


def _done(step: int, begin: int, end: int) -> float:
    """The share of the way from one step to another, 0 to 1."""
    return min(1.0, max(0.0, (step - begin) / max(1, end - begin)))
