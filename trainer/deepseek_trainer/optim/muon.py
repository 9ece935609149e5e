"""Muon (Jordan et al. 2024): the momentum of each hidden matrix, orthogonalised; AdamW for all other parameters.

torch.optim.Muon knows matrices alone, and none that is a shard. Here
- a matrix of which a rank has rows is gathered, orthogonalised on every rank and cut again: it must be whole;
- experts (matrices in a tensor of three dimensions) are sharded between matrices, and stay where they are;
- updates are as large as AdamW's (Liu et al. 2025, "Muon is scalable"), so that rate and decay serve both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Replicate

from deepseek_trainer.distributed.shards import local, zeros_like
from deepseek_trainer.optim.adamw import AdamW

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic: steepest at zero; it brings singular values to about 0.7 to 1.2, and not to 1."""
RMS = 0.2
"""Of an update's entries, as AdamW's have it."""


class Muon(AdamW):
    """AdamW, but for the groups with `muon`."""

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        momentum: float,
        iterations: int,
        collective: Callable[[], AbstractContextManager[None]] = nullcontext,
        **adamw: Any,
    ) -> None:
        """Args:
        iterations: of Newton and Schulz.
        collective: around what it has to ask of other ranks.
        """
        super().__init__([{"muon": False, "momentum": momentum, **group} for group in groups], **adamw)
        self._iterations, self._collective = iterations, collective

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        groups = self.param_groups
        for group in groups:
            if group["muon"]:
                self._orthogonal_step(group)
        try:
            self.param_groups = [group for group in groups if not group["muon"]]
            return super().step(closure)
        finally:
            self.param_groups = groups

    def _first_state(self, group: dict[str, Any], parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"momentum_buffer": zeros_like(parameter)} if group["muon"] else super()._first_state(group, parameter)

    def _orthogonal_step(self, group: dict[str, Any]) -> None:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            momentum, gradient = local(self.state[parameter]["momentum_buffer"]), local(parameter.grad)
            gradient.mul_(self.gradient_factor)
            momentum.lerp_(gradient, 1 - group["momentum"])
            update = self._orthogonalized(parameter, gradient.lerp(momentum, group["momentum"]))
            rate, (rows, columns) = group["lr"], parameter.shape[-2:]
            weights = local(parameter)
            weights.mul_(1 - rate * group["weight_decay"])
            weights.add_(update, alpha=-rate * RMS * math.sqrt(max(rows, columns)))

    def _orthogonalized(self, parameter: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
        """This rank's part of the orthogonalised update, of its part of the update."""
        if not isinstance(parameter, DTensor) or _has_whole_matrices(parameter):
            return orthogonalized(update, self._iterations)
        mesh, placements = parameter.device_mesh, parameter.placements
        part = DTensor.from_local(
            update, mesh, placements, run_check=False, shape=parameter.shape, stride=parameter.stride()
        )
        with self._collective():
            whole = part.full_tensor()
        done = DTensor.from_local(orthogonalized(whole, self._iterations), mesh, [Replicate()] * mesh.ndim)
        return done.redistribute(placements=placements).to_local()


def orthogonalized(matrices: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """The same singular vectors, with singular values near 1.

    Args:
        matrices: shape (..., m, n).
        iterations: of Newton and Schulz.
    """
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16() if matrices.device.type == "cuda" else matrices
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.mT if tall else x).to(matrices.dtype)


def _has_whole_matrices(parameter: DTensor) -> bool:
    """Whether a rank's part is of whole matrices: experts that are spread, and not cut."""
    cuts = {getattr(placement, "dim", None) for placement in parameter.placements} - {None}
    return not cuts or (parameter.ndim > 2 and cuts == {0})
