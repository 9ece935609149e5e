"""What of a run is saved: weights and optimizer, by parameter name, whatever the number of ranks.

What is read into it is in model and optimizer: these are their own tensors. The learning rate, like all that the
config says of the optimizer, and the data's order are pure functions of config and step, and the loop has no dropout,
so no such number and no random state belongs to it. The ledger travels in the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import get_model_state_dict


def collect(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    beside: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
) -> dict[str, Any]:
    """The state as sharded tensors, to be written or to be read into.

    Args:
        optimizer: one that knows its parameters' names, and has its state from the beginning (`optim.optimizer`).
        beside: what else the loop remembers, by parts.
    """
    moments = {
        name: dict(optimizer.state[parameter])
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    }
    return {**weights(model), "optimizer": {"state": moments}, **{name: dict(p) for name, p in (beside or {}).items()}}


def weights(model: torch.nn.Module) -> dict[str, Any]:
    """The weights alone, in the shape of `collect`."""
    return {"model": get_model_state_dict(model)}
