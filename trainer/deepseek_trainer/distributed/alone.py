"""A world of one process: no FSDP2, or FSDP2 without its copies.

In a group of one, FSDP2 gathers nothing and sums nothing, and yet copies: weights before each forward and backward pass, and
gradients twice after it, into memory that is allocated anew each time. That is a fifth of a step of a small model on a
CPU. So a model that is computed in the type of its weights, where they are, isn't wrapped at all (`distributed/sharding.py`);
of one that is computed in another type a parameter keeps its memory for that, and its gradient is handed over instead of
being copied.

Rule: nothing else changes. Parameters keep their names, for checkpoint, optimizer and clipping, and each number is what FSDP2
would have made.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule

from deepseek_trainer.distributed.world import World


def settle(model: Any, world: World) -> None:
    """To be called when a sharded model has its memory and before its first forward pass; nothing in a larger world."""
    wrapped: bool = isinstance(model, FSDPModule)
    if world.size > 1 or not wrapped:
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
    computed = parameter.param_dtype or parameter.orig_dtype
    parameter.init_all_gather_outputs([parameter._sharded_param_data.numel()], [computed], 1, parameter.device)
    parameter.init_unsharded_param()
    parameter.free_unsharded_param()
    if parameter.sharded_param.requires_grad:
        parameter._unsharded_param.register_post_accumulate_grad_hook(lambda whole: _hand_over(parameter, whole))


@torch.no_grad()
def _hand_over(parameter: Any, whole: torch.Tensor) -> None:
    """Gives the shard the gradient of the whole, which is none of its own then."""
    shard, gradient = parameter.sharded_param, parameter._get_grad_inner_tensor(whole.grad).to(parameter.orig_dtype)
    whole.grad = None
    if shard.grad is None:
        shard.grad = parameter.to_sharded_dtensor(gradient)
    else:
        shard.grad._local_tensor += gradient
