"""Puts the first values into a model, tensor by tensor and each rank its own part; so no rank ever holds the whole.

The model was built on the meta device and cut up there: its tensors have shapes and no memory yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from deepseek_trainer.config import ConfigError
from deepseek_trainer.distributed.shards import local, with_part
from deepseek_trainer.model import recipes
from deepseek_trainer.model.layers import plain_name, tensors
from deepseek_trainer.model.recipes import Part

Read = Callable[[str, torch.Size, Part], torch.Tensor | None]
"""A part of a trained tensor, of the whole's shape; None: it has to be drawn."""


def fill(
    model: Any,
    device: torch.device,
    blueprint: Any | None,
    *,
    seed: int,
    offloaded: bool = False,
    read: Read | None = None,
) -> None:
    """Gives the tensors memory on the device, and values.

    Args:
        blueprint: the same model on the meta device, whole; None: only what no checkpoint has gets values, as everything
            else comes from one.
        offloaded: parameters stay on the host; buffers don't.
        read: the source of trained weights; what it doesn't have is drawn.

    Raises:
        ConfigError: nobody says how a tensor begins.
    """
    saved = {plain_name(name) for name in model.state_dict()}
    wanted = None if blueprint is not None else tensors(model).keys() - saved
    known = recipes.of(model if blueprint is None else blueprint, wanted)
    host = torch.device("cpu") if offloaded else device
    model._apply(lambda tensor: with_part(tensor, torch.empty_like(local(tensor), device=host)))
    for module in model.modules() if offloaded else ():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)
    model.tie_weights()
    for name, tensor in tensors(model).items():
        if wanted is not None and name not in wanted:
            continue
        part = part_of(tensor)
        own = local(tensor)
        if not own.numel():
            continue
        value = read(name, tensor.shape, part) if read is not None and name in saved else None
        if value is None:
            if name not in known:
                raise ConfigError(
                    f"trainer.model: {type(model).__name__} doesn't say how {name} begins; take another architecture"
                )
            value = known[name].draw(tensor.shape, part, seed=seed, name=name)
        with torch.no_grad():
            own.copy_(value)


def part_of(tensor: torch.Tensor) -> Part:
    """The box of the whole tensor that this rank has."""
    if not isinstance(tensor, DTensor):
        return tuple(slice(0, size) for size in tensor.shape)
    sizes, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(slice(offset, offset + size) for size, offset in zip(sizes, offsets, strict=True))
