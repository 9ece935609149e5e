"""Next-token cross-entropy, summed: who divides by what is the caller's business."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy


def summed_loss(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Sum of the losses of all predicted tokens, nats, fp32.

    Args:
        tokens: int64, shape (batch, L + 1): L inputs and, shifted by one, L targets.
    """
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    return cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="sum")
