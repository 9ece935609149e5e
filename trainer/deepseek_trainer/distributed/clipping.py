"""The norm of a gradient that lies over many ranks, in parts of different kinds, and its clipping.

Each rank adds up the squares of its parts, each divided by the number of ranks that have the same part, and one sum over
all ranks makes the norm of the whole: whatever the mesh, and for all parameters at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Replicate

from deepseek_trainer.distributed.shards import copies, local
from deepseek_trainer.distributed.world import World


@torch.no_grad()
def clip(parameters: Iterable[torch.Tensor], limit: float, world: World, *, scale: float = 1.0) -> float:
    """Divides gradients by the loss scale, and scales them down so that their norm is `limit` at most. A collective.

    Returns:
        The norm of the gradients without the scale, before they are clipped. If it is no number, they are left as they are.
    """
    known: list[Any] = [parameter for parameter in parameters if parameter.grad is not None]
    parts = [local(parameter.grad) for parameter in known]
    holders = [copies(parameter) * _holders(parameter.grad, world.stage_size) for parameter in known]
    shares = torch.tensor([1 / ranks for ranks in holders], dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64, device=world.device)
    if parts:
        norms = torch.stack(torch._foreach_norm(parts)).double()
        total += (norms.square() * shares.to(norms.device)).sum().to(world.device)
    dist.all_reduce(total)
    norm = float(total.sqrt()) / scale
    factor = min(1.0, limit / (norm + 1e-6)) / scale
    if parts and math.isfinite(norm) and factor != 1.0:
        torch._foreach_mul_(parts, factor)
    return norm


def _holders(gradient: torch.Tensor, ranks: int) -> int:
    """How many ranks have the same part of a gradient, of those that have the same layers."""
    if not isinstance(gradient, DTensor):
        return ranks
    mesh = gradient.device_mesh
    sizes = [
        mesh.size(axis) for axis, placement in enumerate(gradient.placements) if not isinstance(placement, Replicate)
    ]
    return ranks // math.prod(sizes)
