"""Rows on their way to the experts that they are routed to, with the gradient in closed form.

A row goes to k experts, so that its gradient is a sum of k rows, and which k is known. What autograd makes of an index doesn't
know it: it adds row after row where the index says, on a CPU one at a time (of a small DeepSeek-V3's step an eighth), on a GPU
after sorting the indices. Here each is copied to its place, and the k beside each other are added: on any device, in an order
that is the same each time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def by_expert(chosen: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """The routes in the order of their experts, shape (n * k,), and how many go to each, shape (experts,); int64.

    Args:
        chosen: int64, shape (n, k): the experts of each row.
    """
    route_to = chosen.flatten()
    counts = route_to.new_zeros(experts).scatter_add_(0, route_to, torch.ones_like(route_to))
    return torch.argsort(route_to, stable=True), counts


def taken(rows: Tensor, order: Tensor, k: int) -> Tensor:
    """The rows of these routes, shape (routes, size).

    Args:
        rows: shape (n, size).
        order: int64, shape (routes,): routes, of which i * k to i * k + k - 1 are row i's; none twice.
        k: routes of a row.
    """
    found: Tensor = _Taken.apply(rows, order, k)
    return found


def returned(out: Tensor, order: Tensor, like: Tensor) -> Tensor:
    """What came of each row's routes, shape (n, k, size); 0 for a route that was not taken.

    Args:
        out: shape (routes, size), in this order.
        like: of shape (n, k).
    """
    return out.new_zeros(like.numel(), out.shape[-1]).index_copy(0, order, out).view(*like.shape, -1)


def combined(out: Tensor, order: Tensor, weights: Tensor) -> Tensor:
    """Of each row the weighted sum of what came of its routes, shape (n, size).

    Args:
        out: as in `returned`.
        weights: shape (n, k).
    """
    return (returned(out, order, weights) * weights.unsqueeze(-1)).sum(dim=1)


class _Taken(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: Tensor, order: Tensor, k: int) -> Tensor:
        context.save_for_backward(order)
        context.shape = len(rows), k, rows.shape[-1]
        return rows.index_select(0, order // k)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (order,), (n, k, size) = context.saved_tensors, context.shape
        placed = gradient.new_zeros(n * k, size).index_copy_(0, order, gradient)
        return placed.view(n, k, size).sum(dim=1), None, None
