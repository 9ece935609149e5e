"""Model FLOPs utilization: the share of the hardware's peak that the model's own operations are (Chowdhery et al. 2022).

Operations are counted by the formulas of `architecture`, as `dsj plan` counts them: 6 for each parameter that a token is
multiplied with, and causal attention; what is computed again counts once. Nothing is guessed: an architecture that the
formulas don't know, which shows in another number of parameters, or a device without a known peak, has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deepseek_trainer.plan.architecture import Architecture
from deepseek_trainer.plan.hardware import GPUS, of_product

TOLERANCE = 0.01
"""Share of the parameters that the formulas may be off: small norms and biases."""


@dataclass(frozen=True)
class Utilization:
    """Of one run.

    Attributes:
        operations: of a token's forward and backward pass.
        peak: operations a second of all ranks together.
    """

    operations: float
    peak: float

    def at(self, tokens_per_second: float) -> float:
        return self.operations * tokens_per_second / self.peak


def of(
    config: Any, *, parameters: int, length: int, ranks: int, product: str | None, peak: float | None
) -> Utilization | None:
    """None: it isn't known.

    Args:
        config: of the model, as transformers has it.
        parameters: that the model really has.
        length: tokens of a sequence.
        product: the GPU's name, as CUDA says it; None: there is none.
        peak: operations a second of a rank, where somebody has said it; it counts before the data sheet's dense bf16.
    """
    if peak is None and product is not None and (name := of_product(product)) is not None:
        peak = GPUS[name].peak
    operations = _operations(config, parameters, length)
    return None if peak is None or operations is None else Utilization(operations, peak * ranks)


def _operations(config: Any, parameters: int, length: int) -> float | None:
    try:
        known = Architecture.of(config)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return known.operations(length) if abs(known.parameters - parameters) <= TOLERANCE * parameters else None
