"""Expert parallelism: each rank has some of the routed experts, and rows travel to the experts that they are routed to.

    along the expert axis    ranks have different rows: each sends a row to its expert's owner, which sends it back
    along the tensor axis    ranks have the same rows: each takes the routes to its own experts, and outputs are summed

Both together: of the routes of its rows a rank takes those to the experts of its place on the tensor axis, and of these
each goes to its owner along the expert axis. A row's routes are weighted where the row came from.

Rule: as in `tensor`, parameters stay DTensors of their whole shape (experts, …), and the local part is computed with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from deepseek_trainer.distributed.exchange import copied, exchanged, scaled, summed
from deepseek_trainer.distributed.waits import Waits
from deepseek_trainer.kernels import routes

Experts = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def spread(module: Any, mesh: DeviceMesh, waits: Waits) -> None:
    """Leaves this rank its experts and has the module find the others, in place.

    Args:
        module: with the weights of a layer's routed experts.
        mesh: the expert axis, the tensor axis, or both in this order.
    """
    own = module.num_experts // mesh.size()
    for name, whole in list(module.named_parameters(recurse=False)):
        part = distribute_tensor(whole.data, mesh, [Shard(0)] * mesh.ndim, src_data_rank=None)
        module.register_parameter(name, nn.Parameter(part, requires_grad=whole.requires_grad))
    module.num_experts = own
    module.forward = _Spread(module, module.forward, mesh, own, waits)


class _Spread:
    """The forward pass of such a module."""

    def __init__(self, module: nn.Module, experts: Experts, mesh: DeviceMesh, own: int, waits: Waits) -> None:
        """Args:
        experts: computes with the local experts, of which there are `own`.
        """
        names = mesh.mesh_dim_names or ()
        self._module, self._experts, self._own, self._waits = module, experts, own, waits
        self._owners = mesh["expert"].get_group() if "expert" in names else None
        self._alike = mesh["tensor"].get_group() if "tensor" in names else None

    def __call__(self, rows: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The experts' outputs for rows of shape (n, width).

        Args:
            chosen: int64, shape (n, k): the experts of each row.
            weights: the same shape: how much each counts.
        """
        if self._alike is not None:
            rows, weights = (copied(tensor, self._alike, self._waits) for tensor in (rows, weights))
        order, counts = self._routes(chosen)
        out = self._owned(routes.taken(rows, order, chosen.shape[-1]), counts)
        total = routes.combined(out, order, weights)
        if self._alike is not None:
            total = summed(total, self._alike, self._waits)
        return total.to(rows.dtype)

    def _routes(self, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The routes to take, by expert, as places in `chosen`; and how many of them go to each owner's each expert."""
        owners, alike = _size(self._owners), _size(self._alike)
        order, counts = routes.by_expert(chosen, owners * alike * self._own)
        if self._alike is None:
            return order, counts.view(owners, self._own)
        place = self._alike.rank()
        order = order[(chosen.flatten()[order] // self._own) % alike == place]
        return order, counts.view(owners, alike, self._own)[:, place]

    def _owned(self, rows: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """What the experts make of rows that are in the order of their experts, in the same order."""
        if self._owners is None:
            return self._computed(rows, counts[0])
        arriving = torch.empty_like(counts)
        with self._waits.collective():
            dist.all_to_all_single(arriving, counts.contiguous(), group=self._owners)
        sent, received = torch.stack([counts.sum(1), arriving.sum(1)]).tolist()
        there = exchanged(rows, sent, received, self._owners, self._waits)
        return exchanged(self._computed(there, arriving.flatten()), received, sent, self._owners, self._waits)

    def _computed(self, rows: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """The local experts' outputs for rows that come in runs; each run is of the next expert, beginning anew after the last."""
        experts = torch.arange(len(counts), device=rows.device) % self._own
        experts = experts.repeat_interleave(counts, output_size=len(rows)).unsqueeze(-1)
        with self._local_weights():
            if not len(rows):  # so that its weights have a gradient, and FSDP's collectives are those of the others
                nobody = rows.sum(dim=0, keepdim=True)
                return self._experts(nobody, experts.new_zeros(1, 1), nobody.new_ones(1, 1))[:0]
            return self._experts(rows, experts, rows.new_ones(len(rows), 1))

    @contextmanager
    def _local_weights(self) -> Iterator[None]:
        """While the module's parameters are this rank's parts. Along the expert axis a weight's gradient is of the rows
        of all its ranks already, and FSDP, which doesn't count them, would divide it by too few."""
        parameters: dict[str, Any] = self._module._parameters
        kept = dict(parameters)
        factor = 1 / _size(self._owners)
        for name, parameter in kept.items():
            if isinstance(parameter, DTensor):
                local = parameter.to_local()
                parameters[name] = scaled(local, factor) if factor < 1 else local
        try:
            yield
        finally:
            parameters.update(kept)


def _size(group: dist.ProcessGroup | None) -> int:
    return 1 if group is None else group.size()
