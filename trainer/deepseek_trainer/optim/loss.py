"""Next-token cross-entropy, summed: who divides by what is the caller's business."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from deepseek_trainer.data.samples import IGNORED, MicroBatch
from deepseek_trainer.distributed.context import WHOLE, Context
from deepseek_trainer.kernels.cross_entropy import cross_entropy
from deepseek_trainer.model import mtp
from deepseek_trainer.model.balance import Routing


class Objective(NamedTuple):
    """Sums over the tokens that are to be predicted, nats, fp32."""

    loss: torch.Tensor
    """The cross-entropy: what is reported."""
    minimized: torch.Tensor
    """With what is added to it for the gradient's sake."""


def summed_loss(model: Any, batch: MicroBatch, *, context: Context = WHOLE) -> torch.Tensor:
    """Sum of the losses of all tokens of this rank's part that are to be predicted, nats, fp32."""
    own = context.own(context.begin(batch))
    return _cross_entropy(_flat(_output(model, own).logits), own.labels)[0]


def summed_objective(
    model: Any,
    batch: MicroBatch,
    *,
    z_loss: float = 0.0,
    routing: Routing | None = None,
    further_weight: float = 0.0,
    context: Context = WHOLE,
) -> Objective:
    """The same with what is minimised: beside it are the losses of the routers and of the tokens after the next, and z_loss
    times the squared logarithm of the softmax' denominator (Chowdhery et al. 2022, PaLM), so that logits stay small.

    Args:
        batch: whole sequences; what is computed is this rank's part of them.
        further_weight: of the mean of the losses of the tokens after the next, where the model predicts them.
        context: which part that is.
    """
    batch = context.begin(batch)
    own = context.own(batch)
    if routing is not None:
        routing.begin(batch)
    found = objective(_output(model, own), batch, z_loss=z_loss, further_weight=further_weight, context=context)
    if routing is not None:
        routing.follow(found.loss)
    return found


def objective(
    output: Any, batch: MicroBatch, *, z_loss: float = 0.0, further_weight: float = 0.0, context: Context = WHOLE
) -> Objective:
    """The same of what a model has answered for this rank's part, without what routers add.

    Args:
        batch: whole sequences, which have begun.
    """
    labels, logits = context.own(batch).labels, _flat(output.logits)
    loss, squares = _cross_entropy(logits, labels)
    minimized = loss + z_loss * squares if z_loss else loss
    further = [
        _cross_entropy(_flat(more), context.part(mtp.labels(batch, k)))[0]
        for k, more in enumerate(_further(output), start=1)
    ]
    if further:
        minimized = minimized + further_weight * torch.stack(further).mean()
    return Objective(loss, minimized)


def _output(model: Any, batch: MicroBatch) -> Any:
    # Positions that start again are what tells the model's attention that another piece begins; so there is no mask.
    return model(input_ids=batch.inputs, position_ids=batch.positions, use_cache=False)


def _further(output: Any) -> tuple[torch.Tensor, ...]:
    return output.further if isinstance(output, mtp.Predicted) else ()


def _flat(logits: torch.Tensor) -> torch.Tensor:
    """Shape (tokens, vocabulary), fp32."""
    return logits.flatten(0, 1).float()


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return cross_entropy(logits, labels.flatten(), IGNORED)
