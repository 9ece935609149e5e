"""Collectives within a forward pass, with what the backward pass owes for each, measured as waits.

forward          backward
the same         sum            into what each rank computes a part of (`copied`)
sum              the same       out of it (`summed`)
all to all       all to all     rows to their experts' owner, and back (`exchanged`)
gather           own part       columns that a group has computed, to each of its ranks (`gathered`)
the same         scaled         a gradient that FSDP will divide by too few ranks (`scaled`)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd import Function

from deepseek_trainer.distributed.waits import Waits

# mypy: disable-error-code="no-untyped-call,override"
# torch's Function is untyped.


def copied(tensor: torch.Tensor, group: dist.ProcessGroup, waits: Waits) -> torch.Tensor:
    """The tensor, of which each rank of the group goes on with a part of the work; its gradient is the sum of theirs."""
    out: torch.Tensor = _Copied.apply(tensor, group, waits)
    return out


def summed(tensor: torch.Tensor, group: dist.ProcessGroup, waits: Waits) -> torch.Tensor:
    """The sum over the group; the gradient of each part is that of the sum."""
    out: torch.Tensor = _Summed.apply(tensor, group, waits)
    return out


def gathered(tensor: torch.Tensor, group: dist.ProcessGroup, waits: Waits) -> torch.Tensor:
    """The tensors of the group, of one shape, side by side along their last dimension."""
    out: torch.Tensor = _Gathered.apply(tensor, group, waits)
    return out


def exchanged(
    rows: torch.Tensor, sent: Sequence[int], received: Sequence[int], group: dist.ProcessGroup, waits: Waits
) -> torch.Tensor:
    """Rows that the others had for this rank, in the order of the ranks.

    Args:
        rows: in the order of the ranks that they are for.
        sent, received: how many rows to and from each rank of the group.
    """
    out: torch.Tensor = _Exchanged.apply(rows, list(sent), list(received), group, waits)
    return out


def scaled(tensor: torch.Tensor, factor: float) -> torch.Tensor:
    """The tensor; its gradient is multiplied by the factor."""
    out: torch.Tensor = _Scaled.apply(tensor, factor)
    return out


class _Copied(Function):
    @staticmethod
    def forward(context: Any, tensor: torch.Tensor, group: dist.ProcessGroup, waits: Waits) -> torch.Tensor:
        context.group, context.waits = group, waits
        return tensor.view_as(tensor)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        with context.waits.collective():
            dist.all_reduce(total, group=context.group)
        return total, None, None


class _Summed(Function):
    @staticmethod
    def forward(context: Any, tensor: torch.Tensor, group: dist.ProcessGroup, waits: Waits) -> torch.Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        with waits.collective():
            dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradient, None, None


class _Gathered(Function):
    @staticmethod
    def forward(context: Any, tensor: torch.Tensor, group: dist.ProcessGroup, waits: Waits) -> torch.Tensor:
        context.group, context.width = group, tensor.shape[-1]
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(group.size())]
        with waits.collective():
            dist.all_gather(parts, tensor.contiguous(), group=group)
        return torch.cat(parts, dim=-1)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradient.narrow(-1, context.group.rank() * context.width, context.width), None, None


class _Exchanged(Function):
    @staticmethod
    def forward(
        context: Any,
        rows: torch.Tensor,
        sent: list[int],
        received: list[int],
        group: dist.ProcessGroup,
        waits: Waits,
    ) -> torch.Tensor:
        context.sent, context.received, context.group, context.waits = sent, received, group, waits
        return _all_to_all(rows, sent, received, group, waits)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        back = _all_to_all(gradient, context.received, context.sent, context.group, context.waits)
        return back, None, None, None, None


def _all_to_all(
    rows: torch.Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup, waits: Waits
) -> torch.Tensor:
    out = rows.new_empty(sum(received), *rows.shape[1:])
    with waits.collective():
        dist.all_to_all_single(out, rows.contiguous(), received, sent, group=group)
    return out


class _Scaled(Function):
    @staticmethod
    def forward(context: Any, tensor: torch.Tensor, factor: float) -> torch.Tensor:
        context.factor = factor
        return tensor.view_as(tensor)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient * context.factor, None
