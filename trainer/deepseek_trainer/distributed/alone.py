"""A world of one process: FSDP2 without its copies.

In a group of one, FSDP2 gathers nothing and sums nothing, and yet copies: weights before each forward and backward pass, and
gradients twice after it, into memory that is allocated anew each time. That is a fifth of a step of a small model on a
CPU. Here a parameter that is whole shares the memory of the one shard that there is, unless it is computed in another type
or lies on another device, and its gradient is handed over instead of being copied.

Rule: nothing else changes. Parameters stay shards (DTensors) by the same names, for checkpoint, optimizer and clipping, and each
number is what FSDP2 would have made.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule

from deepseek_trainer.distributed.world import World


def settle(model: Any, world: World) -> None:
    """To be called when a sharded model has its memory and before its first forward pass; nothing in a larger world.

    The memory of the shards must stay where it is: what changes weights writes into them.
    """
    if world.size > 1:
        return
    model._get_fsdp_state()._lazy_init()  # else the first forward pass does it, and only then types are known
    for module in model.modules():
        if isinstance(module, FSDPModule):
            for group in module._get_fsdp_state()._fsdp_param_groups:
                for parameter in group.fsdp_params:
                    _settle(parameter)


def _settle(parameter: Any) -> None:
    """Args: parameter: FSDP2's own record of one."""
    if parameter.offload_to_cpu or hasattr(parameter._sharded_local_tensor, "fsdp_pre_all_gather"):
        return
    if parameter.param_dtype is None:  # it is computed in its own type
        parameter.all_gather_outputs = [parameter._sharded_param_data]
        parameter.free_unsharded_param = _keep
    else:
        parameter.init_all_gather_outputs(
            [parameter._sharded_param_data.numel()], [parameter.param_dtype], 1, parameter.device
        )
    parameter.init_unsharded_param()
    parameter.free_unsharded_param()
    if parameter.sharded_param.requires_grad:
        parameter._unsharded_param.register_post_accumulate_grad_hook(lambda whole: _hand_over(parameter, whole))


def _keep() -> None:
    """There is nothing to free: the memory is the shard's."""


@torch.no_grad()
def _hand_over(parameter: Any, whole: torch.Tensor) -> None:
    """Gives the shard the gradient of the whole, which is none of its own then."""
    shard, gradient = parameter.sharded_param, parameter._get_grad_inner_tensor(whole.grad).to(parameter.orig_dtype)
    whole.grad = None
    if shard.grad is None:
        shard.grad = parameter.to_sharded_dtensor(gradient)
    else:
        shard.grad._local_tensor += gradient
