"""RMSNorm (arXiv:1910.07467) in one kernel forward and one backward, with the numbers of transformers' modules.

    y  = w * round(x / rms)                 rms = sqrt(mean of squares + eps); rounded to the type of x, as transformers does
    dx = (g - n * mean(g * n)) / rms        n = x / rms, g = w * dy
    dw = sum over rows of dy * round(n)

A program works on a tile of whole rows, all of it in fp32 whatever the type of the input. Of the forward pass only x and one
number a row are kept. In the backward pass each of n programs goes through every nth tile and writes one sum for dw; these
sums are added up last.

Rule: the order of all sums follows from the shape, and not from which program is first (no atomics), so that the same input
gives the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

MAX_SIZE = 16384
"""The longest row: a thousand threads with 16 numbers each, which is what the registers hold."""
_TILE = 4096
"""Numbers in a tile of several rows."""
_PROGRAMS = 256
"""Of the backward pass, at most: two for each multiprocessor of a large GPU, and as many rows to be added up."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x, shape (..., size), over the root of its mean square, times weight, shape (size,); size is at most MAX_SIZE."""
    y: Tensor = _RMSNorm.apply(x, weight, eps)
    return y


class _RMSNorm(torch.autograd.Function):
    """A function and no operation of torch.library, as torch advises: that takes the host four times as long."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        rows = _rows(x)
        y = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, weight.dtype), device=x.device)
        scale = torch.empty(rows.shape[0], dtype=torch.float32, device=x.device)
        if rows.shape[0]:
            tile = _tile(rows.shape[1])
            grid = (triton.cdiv(rows.shape[0], tile["ROWS"]),)
            weight = weight.contiguous()
            _forward[grid](rows, weight, y, scale, rows.shape[0], rows.stride(0), eps, SIZE=rows.shape[1], **tile)
        context.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(context: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = context.saved_tensors
        rows, gradients = _rows(x), _rows(dy)
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        tile = _tile(rows.shape[1])
        programs = min(triton.cdiv(rows.shape[0], tile["ROWS"]), _PROGRAMS)
        sums = torch.empty((programs, rows.shape[1]), dtype=torch.float32, device=x.device)
        if rows.shape[0]:
            strides = gradients.stride(0), rows.stride(0)
            _backward[(programs,)](
                gradients, rows, weight, scale, dx, sums, rows.shape[0], *strides, SIZE=rows.shape[1], **tile
            )
        return dx, sums.sum(0).to(weight.dtype), None


def _rows(tensor: Tensor) -> Tensor:
    """Shape (rows, size); a copy only where a row doesn't lie together."""
    rows = tensor.reshape(-1, tensor.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _tile(size: int) -> dict[str, int]:
    """Rows of a tile, the power of two that a row has room in, and warps: 16 numbers for each thread."""
    block = triton.next_power_of_2(size)
    rows = max(1, _TILE // block)
    return {"ROWS": rows, "BLOCK": block, "num_warps": rows * block // 512}


@triton.jit
def _forward(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917
    x_at, weight_at, y_at, scale_at, rows, stride, eps, SIZE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (column < SIZE)[None, :]
    x = tl.load(x_at + row[:, None] * stride + column[None, :], mask=inside, other=0.0)
    weight = tl.load(weight_at + column, mask=column < SIZE, other=0.0).to(tl.float32)
    wide = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, axis=1) / SIZE + eps)
    normed = (wide * scale[:, None]).to(x.dtype).to(tl.float32)
    tl.store(y_at + row[:, None] * SIZE + column[None, :], weight[None, :] * normed, mask=inside)
    tl.store(scale_at + row, scale, mask=row < rows)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917
    dy_at,
    x_at,
    weight_at,
    scale_at,
    dx_at,
    sums_at,
    rows,
    dy_stride,
    x_stride,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    column = tl.arange(0, BLOCK)
    weight = tl.load(weight_at + column, mask=column < SIZE, other=0.0).to(tl.float32)
    summed = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for first in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = (first + tl.arange(0, ROWS)).to(tl.int64)
        inside = (row < rows)[:, None] & (column < SIZE)[None, :]
        x = tl.load(x_at + row[:, None] * x_stride + column[None, :], mask=inside, other=0.0)
        dy = tl.load(dy_at + row[:, None] * dy_stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
        scale = tl.load(scale_at + row, mask=row < rows, other=0.0)[:, None]
        normed = x.to(tl.float32) * scale
        g = dy * weight[None, :]
        dx = scale * (g - normed * (tl.sum(g * normed, axis=1) / SIZE)[:, None])
        tl.store(dx_at + row[:, None] * SIZE + column[None, :], dx, mask=inside)
        summed += dy * normed.to(x.dtype).to(tl.float32)
    tl.store(sums_at + tl.program_id(0) * SIZE + column, tl.sum(summed, axis=0), mask=column < SIZE)
