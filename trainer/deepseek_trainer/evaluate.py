"""Validation loss on a fixed set of held-out samples: the same for every number of ranks and every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from deepseek_trainer.data.samples import Samples
from deepseek_trainer.distributed.world import World
from deepseek_trainer.optim.loss import summed_loss


@torch.no_grad()
def validation_loss(
    model: Any,
    data: Samples,
    world: World,
    *,
    batches: int,
    tick: Callable[[], None] = lambda: None,
) -> float:
    """Mean loss over the first `batches` * micro_batch_size held-out samples, nats per token. A collective.

    Args:
        tick: called after each micro-batch.
    """
    chosen = data.training + np.arange(min(data.validation, batches * data.micro_batch_size))
    total = torch.zeros((), dtype=torch.float64, device=world.device)
    model.eval()
    for places in data.micro_batches(chosen, rank=world.rank, world_size=world.size):
        total += summed_loss(model, data.collate(chosen[places]).to(world.device))
        tick()
    model.train()
    return world.total(float(total))[0] / max(1, data.totals(chosen)[1])
