"""A bound of the largest singular value of chosen weight matrices (Miyato et al. 2018), kept after each step.

torch's parametrization divides by the value in each forward pass instead. It renames the parameters, so that a checkpoint is
no published model any more, keeps its vectors in fp32 beside weights in bf16, advances them again where activations are
recomputed, and knows no experts. Here a matrix whose value has grown above the limit is scaled down to it, as it is sharded;
the value is known by power iteration, one a step, from the vector of the step before, which is part of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate

from deepseek_trainer.config import ConfigError, SpectralCapSpec
from deepseek_trainer.distributed import shards

_FIRST_ITERATIONS = 10


class SpectralCap:
    """The bound over the parameters of a model. All ranks call the same methods after the same steps."""

    def __init__(self, model: nn.Module, spec: SpectralCapSpec, elsewhere: Collection[str] = ()) -> None:
        """A collective.

        Args:
            elsewhere: names of the parameters that other stages of a pipeline have.

        Raises:
            ConfigError: a pattern fits no matrix.
        """
        found = {name: p for name, p in shards.trained_parameters(model).items() if p.ndim >= 2}
        for pattern in spec.weights:
            if not any(fnmatchcase(name, pattern) for name in (*found, *elsewhere)):
                raise ConfigError(
                    f"trainer.optimizer.spectralCap.weights: {pattern} fits no matrix; correct it. There is, for example, "
                    + next(iter(found), "none")
                )
        self._limit = spec.limit
        self._matrices = {n: p for n, p in found.items() if any(fnmatchcase(n, pattern) for pattern in spec.weights)}
        self.state = {name: _first_vector(matrix) for name, matrix in self._matrices.items()}
        """By parameter name: the right singular vector as far as it is known, (..., n, 1); of a checkpoint, in place."""
        for _ in range(_FIRST_ITERATIONS):
            self.values()

    @torch.no_grad()
    def values(self) -> dict[str, torch.Tensor]:
        """One more iteration; the largest singular value of each matrix, (..., 1, 1). A collective."""
        return {name: _iterate(matrix.detach(), self.state[name]) for name, matrix in self._matrices.items()}

    @torch.no_grad()
    def apply(self) -> None:
        """Scales down what has grown above the limit. A collective."""
        for name, value in self.values().items():
            matrix = self._matrices[name]
            matrix.mul_(_like(matrix, (self._limit / value).clamp(max=1.0)))


def _iterate(matrix: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Takes a unit vector once through the matrix and back; how much longer it came back, as a singular value."""
    back = matrix.mT @ (matrix @ _like(matrix, vector))
    whole = back.full_tensor() if isinstance(back, DTensor) else back
    length = whole.norm(dim=(-2, -1), keepdim=True)
    vector.copy_(whole / length.clamp(min=torch.finfo(length.dtype).tiny))
    return length.sqrt()


def _first_vector(matrix: torch.Tensor) -> torch.Tensor:
    """A unit vector, the same on every rank."""
    shape = (*matrix.shape[:-2], matrix.shape[-1], 1)
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=matrix.dtype).to(matrix.device)
    return drawn / drawn.norm(dim=(-2, -1), keepdim=True)


def _like(matrix: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """What every rank has whole, for arithmetic with a matrix that is sharded."""
    if not isinstance(matrix, DTensor):
        return whole
    return DTensor.from_local(whole, matrix.device_mesh, [Replicate()] * matrix.device_mesh.ndim, run_check=False)
