"""Next-token cross-entropy, summed: who divides by what is the caller's business."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy

from deepseek_trainer.data.samples import IGNORED, MicroBatch


class Objective(NamedTuple):
    """Sums over the tokens that are to be predicted, nats, fp32."""

    loss: torch.Tensor
    """The cross-entropy: what is reported."""
    minimized: torch.Tensor
    """With what is added to it for the gradient's sake."""


def summed_loss(model: Any, batch: MicroBatch) -> torch.Tensor:
    """Sum of the losses of all tokens that are to be predicted, nats, fp32.

    Positions that start again are what tells the model's attention that another piece begins; so there is no mask.
    """
    return _cross_entropy(_logits(model, batch), batch.labels.flatten())


def summed_objective(model: Any, batch: MicroBatch, *, z_loss: float) -> Objective:
    """The same with what is minimised: z_loss times the squared logarithm of the softmax' denominator is added (Chowdhery
    et al. 2022, PaLM), so that logits stay small."""
    logits, labels = _logits(model, batch), batch.labels.flatten()
    loss = _cross_entropy(logits, labels)
    if not z_loss:
        return Objective(loss, loss)
    denominators = torch.logsumexp(logits, dim=-1)[labels != IGNORED]
    return Objective(loss, loss + z_loss * denominators.square().sum())


def _logits(model: Any, batch: MicroBatch) -> torch.Tensor:
    """Shape (tokens, vocabulary), fp32."""
    logits: torch.Tensor = model(input_ids=batch.inputs, position_ids=batch.positions, use_cache=False).logits
    return logits.flatten(0, 1).float()


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
