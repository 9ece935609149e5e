"""How the model lies over the ranks. The one module that knows all of it; each axis has a module of its own.

    context            attention is of sequences of which each rank has a part
    tensor, experts    matrices and experts are shared out, as DTensors of their whole shape
    recompute          how much a layer keeps for its backward pass
    compiled           layers through torch.compile, with that
    shard              FSDP2 by decoder layer, over what each rank has then: torch's `fully_shard`. In a world of one process it
                       would share nothing out, and is for what it casts or keeps on the host alone
    replicate          gradients are averaged over the groups that have the same shards, after FSDP2 has summed them

transformers 5.23 has a plan-driven layer of its own (`transformers.distributed`), which shards what `from_pretrained`
loads and is no fit for a model that starts from random weights: it has no from-config path, leaves a world of one
unsharded (a second code path for checkpoints), takes the device from the machine and not from the backend (a gloo job on
a GPU machine would fail), and fixes the mixed-precision policy. Its plans for tensor parallelism are used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from deepseek_trainer.config import ConfigError, TrainingSpec
from deepseek_trainer.config.mesh import FIELD
from deepseek_trainer.config.parallelism import Divisible
from deepseek_trainer.distributed import context, experts, recompute, tensor
from deepseek_trainer.distributed.context import Context
from deepseek_trainer.distributed.mesh import Groups
from deepseek_trainer.distributed.waits import Waits
from deepseek_trainer.distributed.world import World
from deepseek_trainer.model import compiled
from deepseek_trainer.model.layers import decoder_layers, routed, router

COMPUTED: Mapping[str, torch.dtype] = {"bf16": torch.bfloat16, "fp8": torch.bfloat16, "fp16": torch.float16}
"""By precision: the type that the forward and backward pass are in, but for what has one of its own; else it is fp32."""


def shard(model: Any, world: World, groups: Groups, training: TrainingSpec, waits: Waits) -> Context:
    """Shards a model in place over the mesh, and says how its sequences are divided. Its collectives tell `waits`.

    A model on the meta device stays there, to be filled shard by shard; another one is moved to the world's device.

    The forward and backward pass are in the precision that is asked for; weights, the gradients' sum and the optimizer stay
    in fp32. The router too: its bias moves in steps that bf16 would round away.

    Raises:
        ConfigError: the model can't be shared out so.
    """
    Divisible.of(model.config).require(groups.mesh)
    if not any(parameter.is_meta for parameter in model.parameters()):
        model.to(world.device)
    divided = context.divide(model, groups.context, waits)
    if groups.tensor is not None:
        tensor.split(model, groups.tensor, waits)
    computed = COMPUTED.get(training.precision)
    for layer in decoder_layers(model):
        if groups.experts is not None and (own := routed(layer)) is not None:
            experts.spread(own, groups.experts, waits)
        recompute.apply(layer, training.activation_checkpointing)
        compiled.apply(layer, training)
    if world.size > 1 or computed is not None or training.cpu_offload:
        _wrap(model, groups, training, computed, pinned=world.device.type == "cuda")
        _measure(model, groups, waits)
    return divided


def _wrap(model: Any, groups: Groups, training: TrainingSpec, computed: torch.dtype | None, *, pinned: bool) -> None:
    """FSDP2 around each layer, and around experts and routers where they differ from it."""
    policy = MixedPrecisionPolicy()
    if computed is not None:
        policy = MixedPrecisionPolicy(param_dtype=computed, reduce_dtype=torch.float32)
    offload = CPUOffloadPolicy(pin_memory=pinned) if training.cpu_offload else OffloadPolicy()

    def fully(
        module: Any,
        mesh: DeviceMesh = groups.shard,
        policy: MixedPrecisionPolicy = policy,
        resharded: bool | None = None,
    ) -> FSDPModule:
        sharded: FSDPModule = fully_shard(
            module,
            mesh=mesh,
            mp_policy=policy,
            offload_policy=offload,
            shard_placement_fn=lambda parameter: _placement(parameter, mesh.size()),
            reshard_after_forward=resharded,
        )
        return sharded

    for layer in decoder_layers(model):
        if groups.mesh.expert > 1 and (own := routed(layer)) is not None:
            fully(own, groups.expert_shard, replace(policy, cast_forward_inputs=False))  # routes' weights stay fp32
        if computed is not None and (gate := router(layer)) is not None:
            # It stays gathered, which is little: selective recomputation, which it is within, must find the same operations.
            fully(gate, policy=MixedPrecisionPolicy(param_dtype=torch.float32), resharded=False)
        fully(layer)
    fully(model)


def _measure(model: Any, groups: Groups, waits: Waits) -> None:
    """Has FSDP2 use collectives that tell `waits`, and the replicas average what it has summed."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_custom_all_gather(_AllGather(waits))  # type: ignore[arg-type]  # its base class is private
            module.set_custom_reduce_scatter(_ReduceScatter(waits))  # type: ignore[arg-type]  # likewise
            if groups.replicate is not None:
                module.set_all_reduce_hook(_Mean(groups.replicate.get_group(), waits))


def _placement(parameter: torch.Tensor, ranks: int) -> Shard | None:
    """Along which dimension FSDP cuts a parameter; None: the first, as it does of itself.

    What is shared out along its first dimension already has to be cut evenly, or nobody could say which rows a rank has.
    """
    if not isinstance(parameter, DTensor) or not any(placement.is_shard(0) for placement in parameter.placements):
        return None
    own = parameter.to_local().shape
    even = [dimension for dimension, size in enumerate(own) if size % ranks == 0]
    if not even:
        raise ConfigError(
            f"{FIELD}.shard: {ranks} divides no dimension of a weight of shape {tuple(parameter.shape)}, of which a rank has "
            f"{tuple(own)}; take another size"
        )
    return Shard(even[0]) if even[0] else None


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


class _Mean:
    """Averages what FSDP2 has summed over those who have the same shards."""

    def __init__(self, group: dist.ProcessGroup, waits: Waits) -> None:
        self._group, self._waits = group, waits

    def __call__(self, gradients: torch.Tensor) -> None:
        if gradients.is_cuda:  # it is of another stream, and may be freed before this one has come to it
            gradients.record_stream(torch.cuda.current_stream())
        with self._waits.collective():
            dist.all_reduce(gradients, op=dist.ReduceOp.AVG, group=self._group)


def sync_on_last(model: Any, training: TrainingSpec, *, last: bool) -> None:
    """Sums gradients over the ranks in the last micro-step only, and weights stay gathered until then; or in each."""
    if not isinstance(model, FSDPModule):
        return
    _sums(model, last or training.reduce_gradients == "microBatch")


def hold_gradients(model: FSDPModule) -> None:
    """The next backward pass leaves gradients out (see `deferred`): FSDP sums nothing, and weights stay gathered."""
    _sums(model, False)


def add_held(model: Any, training: TrainingSpec, *, last: bool) -> None:
    """What FSDP does after a backward pass, as the gradients that were left out have been added; see `sync_on_last`."""
    sync_on_last(model, training, last=last)
    model._get_fsdp_state()._root_post_backward_final_callback()


def _sums(model: FSDPModule, sums: bool) -> None:
    """Whether the next backward pass sums gradients over the ranks, and lets go of gathered weights after it."""
    model.set_requires_gradient_sync(sums)
    model.set_reshard_after_backward(sums)
