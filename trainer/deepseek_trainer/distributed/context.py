"""Context parallelism: the ranks of a group get the same samples, and each computes its part of every sequence.

Attention is the one module that looks at other tokens: it is the ring's (see `ring`). What else needs whole sequences
(the labels of tokens further on, an expert's capacity, the balance of a sequence) takes them from the batch, which every
rank has, or puts them together with `whole`.

Rule: positions are those of the whole sequence, and labels are cut after they were shifted, so that the sums of the parts'
losses and gradients are those of the sequence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.functional import pad
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

from deepseek_trainer.config.base import ConfigError
from deepseek_trainer.config.mesh import FIELD
from deepseek_trainer.data.samples import IGNORED, MicroBatch
from deepseek_trainer.distributed.ring import Ring, attention, joined, part
from deepseek_trainer.distributed.waits import Waits
from deepseek_trainer.model import mtp

_NAME = "deepseek_trainer_ring"
_UNKNOWN = ("attention_mask", "softcap", "sliding_window", "s_aux", "position_bias")
"""What transformers hands to an attention of another kind; the ring's own mask is none."""


class Context:
    """How sequences are divided among ranks. Without a group each is one part, and nothing changes."""

    def __init__(self, ring: Ring | None = None) -> None:
        self._ring = ring
        self._starts: torch.Tensor | None = None

    def begin(self, batch: MicroBatch) -> MicroBatch:
        """The batch, padded so that it can be cut evenly; until the next one attention is about its documents."""
        if self._ring is None:
            return batch
        rows, width = batch.inputs.shape
        missing = -width % (2 * self._ring.size)
        places = torch.arange(width, device=batch.inputs.device).expand(rows, width)
        positions = pad(places if batch.positions is None else batch.positions, (0, missing))
        self._starts = None
        if batch.positions is not None:
            self._starts = torch.arange(width + missing, device=positions.device) - positions
        return MicroBatch(pad(batch.inputs, (0, missing)), pad(batch.labels, (0, missing), value=IGNORED), positions)

    def part(self, tensor: torch.Tensor) -> torch.Tensor:
        """This rank's part of whole sequences; shape (rows, width, …)."""
        return tensor if self._ring is None else part(tensor, self._ring.rank, self._ring.size)

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """Whole sequences of the parts of all ranks; it has no gradient. A collective of the group."""
        return tensor if self._ring is None else joined(self._ring.gather(tensor.detach()))

    def at(self, tensor: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """What each sequence has at its place; shape (rows, size), without a gradient. A collective of the group.

        Args:
            tensor: this rank's part, shape (rows, part's width, size).
            places: in the whole sequences; int64, shape (rows,).
        """
        rows = torch.arange(len(tensor), device=tensor.device)
        if self._ring is None:
            return tensor[rows, places]
        width = torch.arange(tensor.shape[1] * self._ring.size, device=tensor.device)
        here = self.part(width.expand(len(tensor), -1)) == places[:, None]
        found = tensor.detach()[rows, here.int().argmax(1)].masked_fill(~here.any(1, keepdim=True), 0)
        return torch.stack(self._ring.gather(found)).sum(0)

    def own(self, batch: MicroBatch) -> MicroBatch:
        """This rank's part of a batch that has begun."""
        if batch.positions is None:
            return batch
        return MicroBatch(self.part(batch.inputs), self.part(batch.labels), self.part(batch.positions))

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None) -> torch.Tensor:
        assert self._ring is not None  # noqa: S101  its attention was put into the model
        return attention(self._ring, query, key, value, self._starts, scale)


WHOLE = Context()
"""Sequences that are not divided."""


def divide(model: Any, mesh: DeviceMesh | None, waits: Waits) -> Context:
    """Has a model's attention work on parts of sequences, in place.

    Args:
        mesh: the context axis; None: there is none.

    Raises:
        ConfigError: the model has an attention of its own.
    """
    if mesh is None:
        return WHOLE
    attentions = [module for module in model.modules() if hasattr(module, "is_causal")]
    if not attentions or not model._can_set_attn_implementation():
        raise ConfigError(
            f"{FIELD}.context: {type(model).__name__} has an attention of its own, which needs whole sequences; set context "
            "to 1"
        )
    context = Context(Ring(mesh.get_group(), waits))
    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, _no_mask)
    model.config._attn_implementation = _NAME
    for module in attentions:
        module.context = context
    if isinstance(model, mtp.MultiTokenModel):
        model.ahead = lambda tokens, k, filling: context.part(mtp.ahead(context.whole(tokens), k, filling))
    return context


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **named: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers' models call."""
    named["attention_mask"] = attention_mask
    if unknown := [name for name in _UNKNOWN if named.get(name) is not None]:
        raise ConfigError(
            f"{FIELD}.context: {type(module).__name__} wants {', '.join(unknown)}, which needs whole sequences; set context to 1"
        )
    out = module.context.attend(query, key, value, scaling)
    return out.transpose(1, 2).contiguous(), None


def _no_mask(**_: Any) -> None:
    """The ring knows who sees whom."""
