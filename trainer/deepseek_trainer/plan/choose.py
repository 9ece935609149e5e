"""The mesh that `parallelism: {auto: true}` takes: of those that fit the GPU's memory, the one with the shortest step.

Where several are about as fast the plainer one is taken: fewer axes, and of these the ones that are easiest on the network.
"""

from __future__ import annotations

from collections.abc import Iterator

from deepseek_trainer.config.base import ConfigError
from deepseek_trainer.config.parallelism import FIELD, Divisible, Mesh
from deepseek_trainer.plan.estimate import Estimate, Workload, estimate
from deepseek_trainer.plan.hardware import GIB, Gpu

ABOUT = 1.03
"""Steps that differ by less are as fast as each other."""


def choose(work: Workload, parts: Divisible, ranks: int, gpu: Gpu, *, per_node: int) -> Estimate:
    """The best mesh of so many ranks.

    Args:
        parts: what of the model can be shared out.

    Raises:
        ConfigError: under none the model fits; says how much memory is missing, and what makes it smaller.
    """
    costs = [estimate(work, mesh, gpu, per_node=per_node) for mesh in _meshes(parts, ranks, per_node)]
    fitting = [cost for cost in costs if cost.fits(gpu)]
    if not fitting:
        least = min(costs, key=lambda cost: cost.bytes)
        largest = max(least.memory, key=lambda what: least.memory[what])
        raise ConfigError(
            f"{FIELD}.auto: the model doesn't fit on {ranks} GPUs of {gpu.memory / GIB:.0f} GiB: even {least.mesh} takes "
            f"{least.bytes / GIB:.0f} GiB a GPU, most of it {largest}; take more GPUs, {_remedy(work)}"
        )
    fastest = min(_typical(cost) for cost in fitting)
    return min((cost for cost in fitting if _typical(cost) <= fastest * ABOUT), key=lambda cost: _plainness(cost.mesh))


def _meshes(parts: Divisible, ranks: int, per_node: int) -> Iterator[Mesh]:
    """Every mesh that the model can be shared out over; tensor groups stay on a node, other sizes are powers of two or all."""
    for tensor in _sizes(min(per_node, ranks)):
        if ranks % tensor:
            continue
        data = ranks // tensor
        for replicate in {*_sizes(data), data}:
            if data % replicate:
                continue
            shard = data // replicate
            for expert in _sizes(shard):
                mesh = Mesh(replicate, shard, tensor, expert)
                if shard % expert == 0 and _possible(parts, mesh):
                    yield mesh


def _sizes(most: int) -> list[int]:
    return [2**power for power in range(most.bit_length()) if 2**power <= most]


def _possible(parts: Divisible, mesh: Mesh) -> bool:
    try:
        parts.require(mesh)
    except ConfigError:
        return False
    return True


def _typical(cost: Estimate) -> float:
    best, worst = cost.seconds
    return (best + worst) / 2


def _plainness(mesh: Mesh) -> tuple[int, ...]:
    axes = sum(size > 1 for size in (mesh.replicate, mesh.tensor, mesh.expert))
    return axes, mesh.tensor, mesh.expert, mesh.replicate


def _remedy(work: Workload) -> str:
    remedies = []
    if work.checkpointing != "full":
        remedies.append("set training.activationCheckpointing to full")
    if not work.reduced_each_time:
        remedies.append("set training.reduceGradients to microBatch")
    if work.micro_batch > 1:
        remedies.append("lower training.microBatchSize")
    if not work.bf16:
        remedies.append("set training.precision to bf16")
    if not work.cpu_offload:
        remedies.append("set training.cpuOffload")
    return ", ".join([*remedies[:-1], f"or {remedies[-1]}"]) if remedies else "or a smaller model"
