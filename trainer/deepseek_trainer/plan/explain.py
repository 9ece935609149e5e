"""An estimate in lines for people: what each rank holds, what it sends, how fast a step may be, and what to change."""

from __future__ import annotations

from collections.abc import Iterator

from deepseek_trainer.config.mesh import Mesh
from deepseek_trainer.plan.choose import Choice
from deepseek_trainer.plan.estimate import Estimate
from deepseek_trainer.plan.hardware import GIB, Gpu
from deepseek_trainer.plan.workload import Workload

WHY = {
    "shard": "{0} ranks share weights, gradients and optimizer",
    "replicate": "{0} groups of ranks have all of it each, and average gradients",
    "context": "{0} ranks have a part each of the same sequences",
    "tensor": "{0} neighbours share each matrix, and work on the same rows",
    "expert": "{0} neighbours share the routed experts",
    "pipeline": "{0} groups of ranks have some of the layers each, and work on micro-batches one after the other",
}


def lines(work: Workload, cost: Estimate, gpu: Gpu, name: str, *, per_node: int) -> Iterator[str]:
    """Args:
    name: of the GPU.
    """
    model, mesh = work.architecture, cost.mesh
    active = f", {_count(model.active)} of them for each token" if model.mixture_layers else ""
    yield f"model: {_count(model.parameters)} parameters{active}"
    yield f"ranks: {mesh.ranks} on {name} ({gpu.memory / GIB:.0f} GiB), {min(per_node, mesh.ranks)} a node"
    yield from _axes(mesh)
    state = "fits" if cost.fits(gpu) else "DOESN'T FIT"
    whose = "the rank that needs most" if mesh.pipeline > 1 else "a rank"
    yield f"memory of {whose}: {_size(cost.bytes)} of {_size(gpu.memory)}: {state}"
    for what, size in sorted(cost.memory.items(), key=lambda entry: -entry[1]):
        yield f"  {_size(size):>10}  {what}"
    yield f"sent by a rank in a step: {_size(sum(cost.traffic.values()))}"
    for axis, size in sorted(cost.traffic.items(), key=lambda entry: -entry[1]):
        yield f"  {_size(size):>10}  along {axis}"
    if mesh.pipeline > 1:
        yield (
            f"the pipeline fills and runs empty: {cost.idle:.0%} of the time, with {cost.micro_batches} micro-batches a step "
            f"in {mesh.pipeline} groups; more micro-batches make it less"
        )
    if mesh.context > 1:
        yield f"attention in the ring has no fused kernel: {cost.ring:.3g} s of a step are its scores on their way to memory"
    best, worst = cost.seconds
    low, high = cost.mfu
    tokens = work.global_batch * work.length
    yield f"a step of {tokens:,} tokens: {_range(cost)}, {tokens / worst:,.0f} to {tokens / best:,.0f} tokens/s"
    yield f"model FLOPs utilization: {low:.0%} to {high:.0%} (best: traffic of weights is hidden; worst: nothing is)"


def compared(choice: Choice, gpu: Gpu) -> Iterator[str]:
    """What would be without each axis that the chosen mesh has."""
    yield f"  with it a step takes {_range(choice.cost)}"
    for axis, other in choice.without.items():
        fit = "" if other.fits(gpu) else f"doesn't fit ({_size(other.bytes)} of {_size(gpu.memory)}): "
        yield f"  without {axis}, {other.mesh}: {fit}{_range(other)}"


def _range(cost: Estimate) -> str:
    best, worst = cost.seconds
    return f"{best:.3g} to {worst:.3g} s"


def _axes(mesh: Mesh) -> Iterator[str]:
    for axis, text in WHY.items():
        if (size := getattr(mesh, axis)) > 1:
            yield f"  {axis} {size}: {text.format(size)}"


def _count(number: float) -> str:
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,.0f}"


def _size(number: float) -> str:
    return f"{number / GIB:.3g} GiB" if number >= GIB else f"{number / 2**20:.3g} MiB"
