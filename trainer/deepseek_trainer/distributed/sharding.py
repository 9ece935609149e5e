"""How the model lies over the ranks: FSDP2, one shard of every parameter a rank. The one module that knows it.

torch's `fully_shard` is used directly. transformers 5.23 has a plan-driven layer above it
(`transformers.distributed`), which shards what `from_pretrained` loads and is no fit for a model that starts from
random weights: it has no from-config path, leaves a world of one unsharded (a second code path for checkpoints),
takes the device from the machine and not from the backend (a gloo job on a GPU machine would fail), and fixes the
mixed-precision policy. The plan here is its plan for DeepSeek-V3: each decoder layer, then the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from deepseek_trainer.config import Precision
from deepseek_trainer.distributed.waits import Waits
from deepseek_trainer.distributed.world import World

COMPUTED: Mapping[str, torch.dtype] = {"bf16": torch.bfloat16, "fp8": torch.bfloat16, "fp16": torch.float16}
"""By precision: the type that the forward and backward pass are in, but for what has one of its own; else it is fp32."""


def shard(model: Any, world: World, precision: Precision, waits: Waits) -> FSDPModule:
    """Shards a CPU model in place over all ranks and moves it to the world's device. Its collectives tell `waits`.

    The forward and backward pass are in the precision that is asked for; weights, the gradients' sum and the optimizer stay
    in fp32. The router too: its bias moves in steps that bf16 would round away.
    """
    model.to(world.device)
    mesh = init_device_mesh(world.device.type, (world.size,), mesh_dim_names=("fsdp",))
    policy, computed = MixedPrecisionPolicy(), COMPUTED.get(precision)
    if computed is not None:
        policy = MixedPrecisionPolicy(param_dtype=computed, reduce_dtype=torch.float32)
    for layer in model.model.layers:
        if computed is not None and hasattr(layer.mlp, "gate"):
            fully_shard(layer.mlp.gate, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.float32))
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    sharded: FSDPModule = fully_shard(model, mesh=mesh, mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_custom_all_gather(_AllGather(waits))  # type: ignore[arg-type]  # its base class is private
            module.set_custom_reduce_scatter(_ReduceScatter(waits))  # type: ignore[arg-type]  # likewise
    return sharded


class _Collective:
    """What FSDP2 calls in place of its own collectives: the same ones, in the same memory, measured."""

    def __init__(self, waits: Waits) -> None:
        self._waits = waits

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return torch.empty(*size, dtype=dtype, device=device)


class _AllGather(_Collective):
    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        async_op: bool = False,
    ) -> dist.Work | None:
        with self._waits.collective():
            return dist.all_gather_single(output_tensor, input_tensor, group=group, async_op=async_op)


class _ReduceScatter(_Collective):
    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        op: dist.ReduceOp,
        async_op: bool = False,
    ) -> dist.Work | None:
        with self._waits.collective():
            return dist.reduce_scatter_single(output_tensor, input_tensor, op=op, group=group, async_op=async_op)


def sync_on_last(model: FSDPModule, *, last: bool) -> None:
    """Sums gradients over the ranks in the last micro-step only; weights stay gathered until then."""
    model.set_requires_gradient_sync(last)
    model.set_reshard_after_backward(last)
