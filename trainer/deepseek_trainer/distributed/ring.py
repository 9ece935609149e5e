"""Ring attention (arXiv:2310.01889): each rank of a group has a part of every sequence, and keys and values go round.

A sequence is cut into 2n chunks, and rank r has chunks r and 2n-1-r, so that causal attention is as much work for each:

    its own part        query i sees key j where j <= i
    of a rank before    all queries see the first of its two chunks
    of a rank behind    the second chunk's queries see both

What a query has seen of its keys is one softmax in pieces, merged by their log-sum-exp (arXiv:2205.14135). The backward
pass takes the same way; the gradient of a part of keys and values goes along with it, and comes home after n steps.

Rule: matrix products are in the inputs' precision, softmax and sums in fp32. It is one operation for torch, so that
selective activation checkpointing keeps its outputs, and it runs wherever a matrix product does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from deepseek_trainer.distributed.waits import Waits

SCORES = 2**24
"""The most scores that are computed at once: 64 MiB in fp32."""


class Ring:
    """The group of ranks whose parts make a sequence."""

    def __init__(self, group: dist.ProcessGroup, waits: Waits) -> None:
        self.group, self.rank, self.size, self._waits = group, group.rank(), group.size(), waits
        self.name = f"{group.group_name}.{id(self)}"
        _RINGS[self.name] = self

    def source(self, step: int) -> int:
        """Whose part is here after so many steps."""
        return (self.rank - step) % self.size

    def pass_on(self, tensor: Tensor) -> _Passing:
        """Begins to send a tensor to the next rank and to take one of its shape from the rank before."""
        there, back = (self.rank + 1) % self.size, (self.rank - 1) % self.size
        arriving = torch.empty_like(tensor)
        moves = [
            dist.P2POp(dist.isend, tensor, group=self.group, group_peer=there),
            dist.P2POp(dist.irecv, arriving, group=self.group, group_peer=back),
        ]
        return _Passing(arriving, tensor, dist.batch_isend_irecv(moves), self._waits)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all ranks, of one shape."""
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.size)]
        with self._waits.collective():
            dist.all_gather(parts, tensor.contiguous(), group=self.group)
        return parts


_RINGS: WeakValueDictionary[str, Ring] = WeakValueDictionary()
"""By their names, which is what an operation of torch can take: it knows tensors, numbers and texts."""


class _Passing(NamedTuple):
    arriving: Tensor
    leaving: Tensor
    """Kept until it has left."""
    moves: list[dist.Work]
    waits: Waits

    def arrived(self) -> Tensor:
        with self.waits.collective():
            for move in self.moves:
                move.wait()
        return self.arriving


def attention(
    ring: Ring, query: Tensor, key: Tensor, value: Tensor, starts: Tensor | None, scale: float | None = None
) -> Tensor:
    """Causal attention of this rank's queries over whole sequences; shape (rows, heads, width, value_size).

    Args:
        query: shape (rows, heads, width, size): of this rank's part, which has an even width.
        key: shape (rows, key_value_heads, width, size); value: (rows, key_value_heads, width, value_size).
        starts: int64, shape (rows, width * ranks): where in the whole sequence each token's document begins; a token sees
            its own document only. None: a row is one document.
        scale: of the scores; None: 1 / sqrt(size).
    """
    out: Tensor = _attend(query, key, value, starts, scale or query.shape[-1] ** -0.5, ring.name)[0]
    return out


@torch.library.custom_op("deepseek_trainer::ring_attention", mutates_args=())
def _attend(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor | None, scale: float, ring: str
) -> tuple[Tensor, Tensor]:
    """The outputs, and the log-sum-exp of each query's scores, fp32, shape (rows, heads, width)."""
    here = _RINGS[ring]
    queries = query.unflatten(1, (key.shape[1], -1))  # (rows, key_value_heads, group, width, size)
    out = queries.new_zeros(*queries.shape[:-1], value.shape[-1], dtype=torch.float32)
    total = out.new_full(out.shape[:-1], float("-inf"))
    pair = torch.cat([key, value], dim=-1)
    for step in range(here.size):
        passing = here.pass_on(pair) if step + 1 < here.size else None
        keys, values = pair.split([key.shape[-1], value.shape[-1]], dim=-1)
        for rows, columns, hidden in _blocks(here, step, queries, starts):
            scores = _scores(queries[..., rows, :], keys[..., columns, :], hidden, scale)
            known, merged = total[..., rows], torch.logaddexp(total[..., rows], scores.logsumexp(-1))
            shares = scores.sub_(merged.unsqueeze(-1)).exp_().to(value.dtype)
            seen = out[..., rows, :].mul_((known - merged).exp_().unsqueeze(-1))
            seen += _product(shares, values[..., columns, :])
            total[..., rows] = merged
        if passing is not None:
            pair = passing.arrived()
    return out.flatten(1, 2).to(query.dtype), total.flatten(1, 2)


OPERATION = torch.ops.deepseek_trainer.ring_attention.default
"""By which activation checkpointing knows it."""


@_attend.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor | None, scale: float, ring: str
) -> tuple[Tensor, Tensor]:
    out = query.new_empty(*query.shape[:-1], value.shape[-1])
    return out, query.new_empty(query.shape[:-1], dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, starts, ctx.scale, ctx.ring = inputs
    ctx.save_for_backward(query, key, value, starts, *output)


def _backward(ctx: Any, gradient: Tensor, _: None) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
    query, key, value, starts, out, total = ctx.saved_tensors
    pair = torch.cat([key, value], dim=-1)
    to_query, to_pair = _gradients(gradient, query, pair, starts, out, total, ctx.scale, ctx.ring)
    to_key, to_value = to_pair.to(key.dtype).split([key.shape[-1], value.shape[-1]], dim=-1)
    return to_query, to_key, to_value, None, None, None


_attend.register_autograd(_backward, setup_context=_keep)


@torch.library.custom_op("deepseek_trainer::ring_attention_backward", mutates_args=())
def _gradients(
    gradient: Tensor,
    query: Tensor,
    pair: Tensor,
    starts: Tensor | None,
    out: Tensor,
    total: Tensor,
    scale: float,
    ring: str,
) -> tuple[Tensor, Tensor]:
    """Of the queries, and of keys and values side by side, in fp32."""
    here, groups = _RINGS[ring], (pair.shape[1], -1)
    queries, gradients, totals = (tensor.unflatten(1, groups) for tensor in (query, gradient, total))
    sizes = [query.shape[-1], gradient.shape[-1]]
    means = (gradient.float() * out.float()).sum(-1, keepdim=True).unflatten(1, groups)
    to_query = torch.zeros_like(queries, dtype=torch.float32)
    passed = None
    for step in range(here.size):
        passing = here.pass_on(pair) if step + 1 < here.size else None
        keys, values = pair.split(sizes, dim=-1)
        to_pair = torch.zeros_like(pair, dtype=torch.float32)
        to_keys, to_values = to_pair.split(sizes, dim=-1)
        for rows, columns, hidden in _blocks(here, step, queries, starts):
            own, of, seen = queries[..., rows, :], gradients[..., rows, :], keys[..., columns, :]
            shares = _scores(own, seen, hidden, scale).sub_(totals[..., rows, None]).exp_()
            to_values[..., columns, :] += _folded(shares.to(of.dtype)).mT @ _folded(of)
            wanted = _product(of, values[..., columns, :].mT).float().sub_(means[..., rows, :])
            to_scores = shares.mul_(wanted).mul_(scale).to(own.dtype)
            to_query[..., rows, :] += _product(to_scores, seen)
            to_keys[..., columns, :] += _folded(to_scores).mT @ _folded(own)
        if passed is not None:
            to_pair += passed.arrived()  # what the ranks before have found out about these keys and values
        passed = here.pass_on(to_pair)
        if passing is not None:
            pair = passing.arrived()
    assert passed is not None  # noqa: S101  there is a step
    return to_query.flatten(1, 2).to(query.dtype), passed.arrived()


@_gradients.register_fake
def _(gradient: Tensor, query: Tensor, pair: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), pair.new_empty(pair.shape, dtype=torch.float32)


def _blocks(
    ring: Ring, step: int, queries: Tensor, starts: Tensor | None
) -> Iterator[tuple[slice, slice, Tensor | None]]:
    """What is to be computed at a step: places of queries, places of keys, and which of them are hidden from each other,
    bool, shape (rows or 1, 1, 1, queries, keys); None: nothing is."""
    source, width = ring.source(step), queries.shape[-2]
    first, last, seen = 0, width, width
    if source < ring.rank:
        seen = width // 2
    elif source > ring.rank:
        first = width // 2
    own, theirs = None, None
    if starts is not None:
        own, theirs = part(starts, ring.rank, ring.size), part(starts, source, ring.size)
    slice_of = max(1, SCORES // (queries[..., 0, 0].numel() * seen))
    for begin in range(first, last, slice_of):
        end = min(begin + slice_of, last)
        columns = slice(0, end if source == ring.rank else seen)
        hidden = None
        if source == ring.rank:
            places = torch.arange(end, device=queries.device)
            hidden = (places[None, :] > places[begin:, None])[None]
        if own is not None and theirs is not None:
            other = own[:, begin:end, None] != theirs[:, None, columns]
            hidden = other if hidden is None else hidden | other
        yield slice(begin, end), columns, None if hidden is None else hidden[:, None, None]


def part(tensor: Tensor, rank: int, ranks: int) -> Tensor:
    """A rank's part of whole sequences, which are along dimension 1: its two chunks, one behind the other."""
    chunks = tensor.chunk(2 * ranks, dim=1)
    return torch.cat([chunks[rank], chunks[-1 - rank]], dim=1)


def joined(parts: list[Tensor]) -> Tensor:
    """Whole sequences of the parts of all ranks."""
    halves = [tensor.chunk(2, dim=1) for tensor in parts]
    return torch.cat([*(first for first, _ in halves), *(second for _, second in reversed(halves))], dim=1)


def _scores(queries: Tensor, keys: Tensor, hidden: Tensor | None, scale: float) -> Tensor:
    """fp32, shape (rows, key_value_heads, group, queries, keys); minus infinity where a key is hidden."""
    scores = _product(queries, keys.mT).float().mul_(scale)
    return scores if hidden is None else scores.masked_fill_(hidden, float("-inf"))


def _product(left: Tensor, right: Tensor) -> Tensor:
    """(rows, heads, group, n, k) times (rows, heads, k, m), without a copy of the right one for each of the group."""
    return (_folded(left) @ right).unflatten(2, left.shape[2:4])


def _folded(tensor: Tensor) -> Tensor:
    """(rows, heads, group, n, k) as (rows, heads, group * n, k)."""
    return tensor.flatten(2, 3)
