"""Where things are in a model, whatever its architecture and however it was wrapped."""

from __future__ import annotations

from typing import Any

import torch

_WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.", "_fsdp_wrapped_module.")


def decoder_layers(model: Any) -> list[torch.nn.Module]:
    """The layers of the stack, in their order, with those that predict further tokens; not sharded or wrapped yet."""
    whole = set(getattr(model, "_no_split_modules", None) or ())
    if found := [module for module in model.modules() if type(module).__name__ in whole]:
        return found
    stacks = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return list(max(stacks, key=len, default=()))


def router(layer: Any) -> torch.nn.Module | None:
    """What sends a layer's tokens to its experts; None: it has none."""
    found: torch.nn.Module | None = getattr(getattr(layer, "mlp", None), "gate", None)
    return found


def routed(layer: Any) -> torch.nn.Module | None:
    """The module with the weights of a layer's routed experts; None: it has none."""
    found: torch.nn.Module | None = getattr(getattr(layer, "mlp", None), "experts", None)
    return found if hasattr(found, "_is_expert_parallel") else None


def plain_name(name: str) -> str:
    """The name of a tensor as it is in a checkpoint, without what activation checkpointing and compilation add."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All parameters and buffers by their plain names; what is tied once."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {plain_name(name): tensor for name, tensor in named}


def same_code(function: Any, known: Any) -> bool:
    """Whether the two are the very same instructions."""
    own, its = getattr(function, "__code__", None), known.__code__
    return own is not None and (own.co_code, own.co_names, own.co_consts) == (its.co_code, its.co_names, its.co_consts)
