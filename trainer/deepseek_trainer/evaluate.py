"""Validation loss on what is held out: a fixed set of samples, the same for every number of ranks and every step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from deepseek_trainer.data.feed import HeldOut
from deepseek_trainer.distributed.context import WHOLE, Context
from deepseek_trainer.distributed.pipeline import Pipeline
from deepseek_trainer.distributed.world import World
from deepseek_trainer.optim.loss import objective, summed_loss


@torch.no_grad()
def validation_loss(
    model: Any,
    held_out: HeldOut,
    world: World,
    *,
    pipeline: Pipeline | None = None,
    context: Context = WHOLE,
    tick: Callable[[], None] = lambda: None,
) -> float | None:
    """Mean loss over what is held out, nats per token; None where nothing is yet. A collective.

    Args:
        pipeline: that the model is a part of.
        context: which part of each sequence is this rank's.
        tick: called after each micro-batch.
    """
    if not held_out.targets:
        return None
    total = torch.zeros((), dtype=torch.float64, device=world.device)
    model.eval()
    if pipeline is not None:
        total += pipeline.loss(held_out.micro_batches, partial(objective, context=context), tick=tick)
    else:
        for micro_batch in held_out.micro_batches:
            total += summed_loss(model, micro_batch.to(world.device), context=context)
            tick()
    model.train()
    return world.total(float(total) if world.adds else 0.0)[0] / held_out.targets
