"""The process groups of the device mesh: who gathers weights with whom, who shares a matrix, who has which experts.

Neighbouring ranks are along the innermost axis, so that those who talk most are on one node:

    rank = ((pipeline * replicates + replicate) * sharded + place) * tensors + tensor
    place = shard * contexts + context = copy * experts + expert

Rule: only axes longer than one have a group, and with the default sizes the only group is that of all ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import _set_pg_timeout

from deepseek_trainer.config.mesh import Mesh
from deepseek_trainer.distributed.world import World


@dataclass(frozen=True)
class Groups:
    """The groups that this rank is in.

    Attributes:
        shard: who shares weights, gradients and optimizer state.
        replicate: who has the same part of them; None: nobody.
        tensor: who shares each matrix; None: nobody.
        experts: along which routed experts are spread, the expert axis first; None: every rank has all.
        expert_shard: as `shard`, for the weights of experts.
        pipeline: who has the other layers, in their order; None: nobody.
        context: who has the other parts of this rank's sequences; None: it has them whole.
    """

    mesh: Mesh
    shard: DeviceMesh
    replicate: DeviceMesh | None
    tensor: DeviceMesh | None
    experts: DeviceMesh | None
    expert_shard: DeviceMesh
    pipeline: DeviceMesh | None = None
    context: DeviceMesh | None = None


def groups(mesh: Mesh, world: World) -> Groups:
    """Makes the groups. A collective."""
    sizes = {"pipeline": mesh.pipeline, "replicate": mesh.replicate, "shard": mesh.sharded, "tensor": mesh.tensor}
    kept = {name: size for name, size in sizes.items() if size > 1 or name == "shard"}
    dense = init_device_mesh(world.device.type, tuple(kept.values()), mesh_dim_names=tuple(kept))
    routed, divided = dense, dense
    if mesh.expert > 1:
        routed = dense._unflatten("shard", (mesh.expert_copies, mesh.expert), ("copies", "expert"))
    if mesh.context > 1:
        divided = dense._unflatten("shard", (mesh.shard, mesh.context), ("rows", "context"))
    for group in {*dense.get_all_groups(), *routed.get_all_groups(), *divided.get_all_groups()}:
        if group.size() < world.size:  # that of all ranks has its time already
            _set_pg_timeout(world.timeout, group)
    replicate = dense["replicate"] if mesh.replicate > 1 else None
    tensor = dense["tensor"] if mesh.tensor > 1 else None
    pipeline = dense["pipeline"] if mesh.pipeline > 1 else None
    context = divided["context"] if mesh.context > 1 else None
    if mesh.expert == 1:
        return Groups(mesh, dense["shard"], replicate, tensor, tensor, dense["shard"], pipeline, context)
    experts = routed["expert"] if tensor is None else routed["expert", "tensor"]
    return Groups(mesh, dense["shard"], replicate, tensor, experts, routed["copies"], pipeline, context)
