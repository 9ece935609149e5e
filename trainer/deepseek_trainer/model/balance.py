"""The routing of a mixture of experts, counted and kept in balance, by hooks on the routers of transformers' models.

- Load: how many tokens each expert is sent, over all ranks and micro-batches of a step.
- Bias (DeepSeek-V3, arXiv:2412.19437, eq. 16): after a step the bias of an expert that had more than the mean goes down, else up.
- Sequence-wise loss (eq. 17-20; DeepSeek-V2, arXiv:2405.04434, eq. 23-25): each sequence is to use all experts.
- Capacity: what a sequence sends to an expert beyond it adds nothing.

All is counted by tokens and by sequences, never by micro-batches, padding left out: how a global batch is dealt changes nothing.
A forward pass that is computed again (activation checkpointing) does the same work again and is counted once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter

from deepseek_trainer.config import ExpertsSpec
from deepseek_trainer.data.samples import IGNORED, MicroBatch
from deepseek_trainer.distributed.context import WHOLE, Context

AFFINITIES: Mapping[type[torch.nn.Module], Callable[[torch.Tensor], torch.Tensor]] = {
    DeepseekV3TopkRouter: torch.sigmoid,
    DeepseekV2TopkRouter: partial(torch.softmax, dim=-1),
}
"""The routers that are known, and what they make of their logits. Each answers with (logits, weights, indices)."""
BIAS = "e_score_correction_bias"
_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Load:
    """How the tokens of a step were spread.

    Attributes:
        max_violation: of the worst layer: its fullest expert's tokens over the mean's, less 1 (MaxVio, arXiv:2408.15664).
        shares: of each expert over all layers, as a multiple of an equal share.
        dropped: share of all assignments that were beyond the capacity.
    """

    max_violation: float
    shares: tuple[float, ...]
    dropped: float


class _Rows(NamedTuple):
    """Of the micro-batch that is computed, by rows, which are whole sequences."""

    real: torch.Tensor
    """bool, shape (rows, width): there is a token."""
    targets: torch.Tensor
    """fp32, shape (rows,): how many tokens are predicted."""


class Routing:
    """The routers of one rank's model.

    Around each micro-batch of training call `begin` and, with its summed loss, `follow`; after the step `balance`.
    """

    def __init__(
        self, model: torch.nn.Module, config: Any, spec: ExpertsSpec, device: torch.device, context: Context = WHOLE
    ) -> None:
        """Args: model: whose routers are hooked: the whole one or a part of its layers; config: of the whole;
        context: which part of each sequence they see."""
        self._spec, self._context = spec, context
        self._rows: _Rows | None = None
        self._scale = torch.zeros((), device=device)
        self._routers: list[tuple[int, Any]] = []
        for name, module in model.named_modules():
            for kind, affinity in AFFINITIES.items():
                if isinstance(module, kind) and (layer := _LAYER.search(name)):
                    module.register_forward_hook(partial(self._routed, int(layer.group(1)), affinity))
                    self._routers.append((int(layer.group(1)), module))
        layers = config.num_hidden_layers + getattr(config, "num_mtp_layers", 0)
        self._experts = getattr(config, "n_routed_experts", 0)
        self._loads = torch.zeros(layers, self._experts, dtype=torch.int64, device=device)
        self._dropped = torch.zeros((), dtype=torch.int64, device=device)

    def __bool__(self) -> bool:
        """Whether there is anything to balance."""
        return bool(self._experts)

    def begin(self, batch: MicroBatch) -> None:
        """The next forward pass is of these rows."""
        if self._experts:
            self._rows = _Rows(real_tokens(batch), (batch.labels != IGNORED).sum(1).float())

    def follow(self, loss: torch.Tensor) -> None:
        """The sequence-wise losses get the weight in the gradient that this loss, summed over the tokens, has."""
        if self._experts and loss.requires_grad:
            loss.register_hook(self._seen)

    def weigh(self, weight: float) -> None:
        """As `follow`, where the loss is another rank's: the weight that it has in the gradient."""
        self._scale.fill_(weight)

    def balance(self, *, moves: bool = True) -> Load | None:
        """After each step: moves the biases by the loads of all ranks. A collective.

        Args:
            moves: False: the step was left out, and the biases stay.

        Returns:
            None: the model has no experts.
        """
        if not self._experts:
            return None
        counts = torch.cat([self._loads.flatten(), self._dropped[None]])
        dist.all_reduce(counts)
        loads, dropped = counts[:-1].view_as(self._loads), int(counts[-1])
        for layer, router in self._routers:
            bias, own = getattr(router, BIAS, None), loads[layer]
            if bias is not None and moves:
                bias += self._spec.bias_update_rate * torch.sign(own.sum() - own * len(own))
        self._loads.zero_()
        self._dropped.zero_()
        return _load(loads.cpu(), dropped)

    def _seen(self, gradient: torch.Tensor) -> None:
        self._scale.copy_(gradient)

    def _routed(
        self,
        layer: int,
        affinity: Callable[[torch.Tensor], torch.Tensor],
        router: Any,
        inputs: tuple[torch.Tensor, ...],
        output: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        rows = self._rows
        if rows is None or not router.training:
            return None
        logits, weights, indices = output
        real, context = self._context.part(rows.real), self._context
        shape, experts, each = real.shape, router.num_experts, router.top_k
        chosen = indices.view(*shape, each)
        counted = real[:, :, None].expand_as(chosen)
        first_time = torch._C._current_graph_task_id() == -1  # else a backward pass computes it again
        if first_time:
            self._loads[layer].scatter_add_(0, chosen.reshape(-1), counted.reshape(-1).long())
        if self._spec.capacity_factor is not None:
            beyond = _beyond(context.whole(chosen), rows.real, self._spec.capacity_factor, experts)
            beyond = context.part(beyond) & counted
            weights = weights.masked_fill(beyond.view_as(weights), 0.0)
            if first_time:
                self._dropped += beyond.sum()
        if self._spec.sequence_loss and torch.is_grad_enabled():
            scores = affinity(logits.float()).view(*shape, experts)
            if hasattr(router, BIAS):  # the loss is about what they would be without it
                chosen = scores.topk(each, dim=-1).indices
            share = sequence_loss(scores, context.whole(chosen), rows.real, real)
            loss = (share * rows.targets).sum() * self._spec.sequence_loss
            weights = _WithLoss.apply(weights, loss, self._scale)
        return logits, weights, indices


def real_tokens(batch: MicroBatch) -> torch.Tensor:
    """Where a row has tokens and not padding, which is at its end; bool, shape (rows, width)."""
    something = (batch.labels != IGNORED) | (batch.inputs != 0)
    return something.flip(1).cummax(1).values.flip(1)


def sequence_loss(
    scores: torch.Tensor, chosen: torch.Tensor, real: torch.Tensor, own: torch.Tensor | None = None
) -> torch.Tensor:
    """The balance of each sequence, 1 where every expert is used alike; fp32, shape (rows,). DeepSeek-V3, eq. 17-20.

    It is linear in the affinities: with those of a part of a sequence it is that part's share, and the shares add up.

    Args:
        scores: affinities, shape (rows, width, experts), or of a part of the width.
        chosen: experts of each token, shape (rows, width, k).
        real: where there are tokens, shape (rows, width).
        own: the same in the part; None: it is the whole.
    """
    own = real if own is None else own
    experts, each = scores.shape[-1], chosen.shape[-1]
    tokens = real.sum(1, keepdim=True).clamp(min=1)
    sent = real[:, :, None].expand_as(chosen).flatten(1).to(scores.dtype)
    used = scores.new_zeros(len(scores), experts).scatter_add(1, chosen.flatten(1), sent) * (experts / each) / tokens
    wanted = (scores / scores.sum(-1, keepdim=True) * own[:, :, None]).sum(1) / tokens
    return (used * wanted).sum(-1)


def _beyond(chosen: torch.Tensor, real: torch.Tensor, factor: float, experts: int) -> torch.Tensor:
    """Which assignments come after their expert is full in their sequence; bool, as `chosen`. No token sees later ones."""
    capacity = torch.ceil(real.sum(1) * (factor * chosen.shape[-1] / experts))
    sent = torch.zeros(*real.shape, experts, dtype=torch.int64, device=chosen.device).scatter(-1, chosen, 1)
    place = (sent * real[:, :, None]).cumsum(1).gather(-1, chosen)
    return place > capacity[:, None, None]


def _load(loads: torch.Tensor, dropped: int) -> Load:
    busy = loads[loads.sum(1) > 0].double()
    if not len(busy):
        return Load(0.0, (1.0,) * loads.shape[1], 0.0)
    worst = float((busy.max(1).values / busy.mean(1)).max()) - 1
    shares = busy.sum(0) / busy.sum(0).mean()
    return Load(worst, tuple(round(share, 3) for share in shares.tolist()), dropped / math.fsum(busy.sum(1).tolist()))


class _WithLoss(torch.autograd.Function):
    """The weights as they are, with a loss that is computed beside them: its gradient is the scale at that time."""

    @staticmethod
    def forward(ctx: Any, weights: torch.Tensor, loss: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        ctx.scale = scale
        return weights.view_as(weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], ctx.scale.clone(), None
