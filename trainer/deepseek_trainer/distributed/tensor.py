"""Tensor parallelism: the ranks of a group share each matrix and work on the same rows.

    columns    output features are shared out     each rank has its own heads or channels
    rows       input features are shared out      what the ranks put out is summed
    gathered   columns, whose outputs are put side by side: the output layer, over its vocabulary
    latent     whole on each rank, but the rotary part of its output, of multi-head latent attention's keys, goes to
               this rank's heads alone: so its gradient is summed

Which module is which is the model's own plan (transformers' `tp_plan`). DeepSeek-V3's leaves out the attention, which is
added here. Routed experts are not split but spread: see `experts`.

Rule: parameters stay DTensors of their whole shape, so that checkpoints and FSDP know what a rank has of them; what is
computed is the local part, and the collectives are those of `exchange`.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.functional import linear

from deepseek_trainer.config.base import ConfigError
from deepseek_trainer.config.mesh import FIELD
from deepseek_trainer.distributed.exchange import copied, gathered, summed
from deepseek_trainer.distributed.shards import local
from deepseek_trainer.distributed.waits import Waits
from deepseek_trainer.model.layers import decoder_layers

Forward = Callable[[torch.Tensor], torch.Tensor]

_LATENT_ATTENTION = {
    "self_attn.q_proj": "colwise",
    "self_attn.q_b_proj": "colwise",
    "self_attn.kv_a_proj_with_mqa": "mla_kv_a_proj",
    "self_attn.kv_b_proj": "colwise",
    "self_attn.o_proj": "rowwise",
}
_HEAD = "lm_head"


class Axis:
    """The group that shares the matrices, as its modules use it."""

    def __init__(self, mesh: DeviceMesh, waits: Waits, rotary_width: int) -> None:
        """Args: rotary_width: of a latent projection's output, at its end."""
        self.mesh, self.waits, self.group, self.rotary_width = mesh, waits, mesh.get_group(), rotary_width
        self._seen: Callable[[], torch.Tensor | None] = lambda: None
        self._copy: Callable[[], torch.Tensor | None] = lambda: None

    def copied(self, rows: torch.Tensor) -> torch.Tensor:
        """`exchange.copied`, once for modules that read the same rows (queries, keys, values): one sum of gradients."""
        copy = self._copy()
        if copy is None or self._seen() is not rows:
            copy = copied(rows, self.group, self.waits)
            self._seen, self._copy = weakref.ref(rows), weakref.ref(copy)
        return copy

    def summed(self, rows: torch.Tensor) -> torch.Tensor:
        return summed(rows, self.group, self.waits)

    def gathered(self, rows: torch.Tensor) -> torch.Tensor:
        return gathered(rows, self.group, self.waits)


def split(model: Any, mesh: DeviceMesh, waits: Waits) -> None:
    """Shares out the model's matrices over the ranks of a mesh with one axis, in place.

    Raises:
        ConfigError: the model's plan has a part that is not known here, or there is none.
    """
    plan = _plan(model)
    axis = Axis(mesh, waits, getattr(model.config, "qk_rope_head_dim", 0))
    for name, module in model.named_modules():
        style = plan.get(re.sub(r"\.\d+(?=\.|$)", ".*", name))
        if style is None or (name == _HEAD and _stays_whole(model, module, mesh)):
            continue
        if style not in _STYLES:
            raise ConfigError(
                f"{FIELD}.tensor: {type(model).__name__} wants {name} shared out as {style!r}, which is not known here; "
                "set tensor to 1"
            )
        _STYLES[style](module, axis)


def _plan(model: Any) -> Mapping[str, str]:
    """How each module is shared out, by its name with * for a layer's number."""
    plan = dict(model.tp_plan or {})
    if hasattr(getattr(decoder_layers(model)[0], "self_attn", None), "kv_a_proj_with_mqa"):
        plan |= {f"model.layers.*.{name}": style for name, style in _LATENT_ATTENTION.items()}
    # Experts are spread instead; an embedding costs little to look up, and FSDP shares its memory.
    plan = {name: style for name, style in plan.items() if ".experts" not in name and "embedding" not in style}
    if not plan:
        raise ConfigError(f"{FIELD}.tensor: {type(model).__name__} says of no matrix how to share it; set tensor to 1")
    return plan


def _stays_whole(model: Any, head: nn.Linear, mesh: DeviceMesh) -> bool:
    """Whether the output layer isn't shared out: it is the embedding too, or the vocabulary can't be divided."""
    return bool(model.config.tie_word_embeddings) or head.out_features % mesh.size() != 0


def _columns(module: Any, axis: Axis) -> None:
    _share(module, "weight", axis, 0)
    _share(module, "bias", axis, 0)
    module.forward = lambda rows: linear(axis.copied(rows), local(module.weight), local(module.bias))


def _gathered(module: Any, axis: Axis) -> None:
    _columns(module, axis)
    part: Forward = module.forward
    module.forward = lambda rows: axis.gathered(part(rows))


def _rows(module: Any, axis: Axis) -> None:
    _share(module, "weight", axis, 1)

    def forward(rows: torch.Tensor) -> torch.Tensor:
        out = axis.summed(linear(rows, local(module.weight)))
        return out if module.bias is None else out + module.bias

    module.forward = forward


def _latent(module: Any, axis: Axis) -> None:
    whole, width = module.forward, module.out_features - axis.rotary_width

    def forward(rows: torch.Tensor) -> torch.Tensor:
        out = whole(rows)
        return torch.cat([out[..., :width], copied(out[..., width:], axis.group, axis.waits)], dim=-1)

    module.forward = forward


_STYLES: Mapping[str, Callable[[Any, Axis], None]] = {
    "colwise": _columns,
    "rowwise": _rows,
    "colwise_rep": _gathered,
    "colwise_gather_output": _gathered,
    "mla_kv_a_proj": _latent,
}


def _share(module: nn.Module, name: str, axis: Axis, dimension: int) -> None:
    """Leaves this rank its part of a parameter."""
    whole = getattr(module, name)
    if whole is not None:
        part = distribute_tensor(whole.data, axis.mesh, [Shard(dimension)], src_data_rank=None)
        module.register_parameter(name, nn.Parameter(part, requires_grad=whole.requires_grad))
