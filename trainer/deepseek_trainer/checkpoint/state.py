"""What of a run is saved: weights and optimizer, by parameter name, whatever the number of ranks.

The learning rate and the data's order are pure functions of the step, and the loop has no dropout, so no random
state belongs to it. The ledger travels in the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)


def collect(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    beside: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
) -> dict[str, Any]:
    """The state as sharded tensors, to be written or to be read into.

    Args:
        beside: what else the loop remembers, by parts; what is read into it needs no `restore`.
    """
    weights, moments = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": moments, **{name: dict(part) for name, part in (beside or {}).items()}}


def restore(model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Puts a state that was read back into model and optimizer."""
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])


def weights(model: torch.nn.Module) -> dict[str, Any]:
    """The weights alone, in the shape of `collect`."""
    return {"model": get_model_state_dict(model)}


def restore_weights(model: torch.nn.Module, state: dict[str, Any]) -> None:
    """Puts weights that were read back into the model."""
    set_model_state_dict(model, state["model"])
