"""Next-token cross-entropy, summed: who divides by what is the caller's business."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from deepseek_trainer.data.samples import IGNORED, MicroBatch


def summed_loss(model: Any, batch: MicroBatch) -> torch.Tensor:
    """Sum of the losses of all tokens that are to be predicted, nats, fp32.

    Positions that start again are what tells the model's attention that another piece begins; so there is no mask.
    """
    logits = model(input_ids=batch.inputs, position_ids=batch.positions, use_cache=False).logits
    return cross_entropy(logits.flatten(0, 1).float(), batch.labels.flatten(), ignore_index=IGNORED, reduction="sum")
