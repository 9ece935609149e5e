"""The mesh that `parallelism: {auto: true}` takes: of those that fit the GPU's memory, the one with the shortest step.

Where several are about as fast the plainest is taken: fewer axes, and of these the ones that are easiest on the network.
Sequences are divided (context) only where nothing else fits: the ring's attention has no fused kernel.

Rule: what a config or a model can't have is not known here; they are asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from deepseek_trainer.config.base import ConfigError
from deepseek_trainer.config.mesh import FIELD, Mesh
from deepseek_trainer.plan.estimate import Estimate, estimate
from deepseek_trainer.plan.hardware import GIB, Gpu
from deepseek_trainer.plan.workload import Workload

ABOUT = 1.1
"""Steps that differ by less are as fast as each other, for all that formulas know."""
AXES = ("context", "expert", "pipeline", "tensor", "replicate")

Refuse = Callable[[Mesh], None]
"""Raises ConfigError if a mesh can't be taken."""


@dataclass(frozen=True)
class Choice:
    """What is taken.

    Attributes:
        without: by each axis that it has, the best that there is without it, or the smallest if none fits.
    """

    cost: Estimate
    without: dict[str, Estimate]


def choose(work: Workload, refuse: Refuse, ranks: int, gpu: Gpu, *, per_node: int) -> Choice:
    """The best mesh of so many ranks. That of all of them along `shard` is never refused.

    Raises:
        ConfigError: under none the model fits; says how much memory is missing, and what makes it smaller.
    """

    for context in (1, ranks):
        meshes = _meshes(ranks, per_node, layers=work.architecture.layers, context=context)
        known = _Costs([estimate(work, mesh, gpu, per_node=per_node) for mesh in meshes], refuse, gpu)
        if (taken := known.best()) is not None:
            return Choice(taken, {axis: known.best(axis) or known.smallest(axis) for axis in _axes(taken.mesh)})
    raise _misfit(work, known.smallest(), ranks, gpu)


class _Costs:
    """What is known of some meshes. They are refused when they come into question, which takes longer than an estimate."""

    def __init__(self, costs: list[Estimate], refuse: Refuse, gpu: Gpu) -> None:
        self._costs, self._gpu = costs, gpu

        @cache
        def possible(mesh: Mesh) -> bool:
            try:
                refuse(mesh)
            except ConfigError:
                return False
            return True

        self._possible = possible

    def best(self, without: str = "") -> Estimate | None:
        """Of those that fit; the fastest, or one that is plainer and about as fast."""
        fitting = sorted((cost for cost in self._of(without) if cost.fits(self._gpu)), key=lambda cost: cost.typical)
        if (fastest := self._first(fitting)) is None:
            return None
        near = [cost for cost in fitting if cost.typical <= fastest.typical * ABOUT]
        return self._first(sorted(near, key=lambda cost: _plainness(cost.mesh)))

    def smallest(self, without: str = "") -> Estimate:
        found = self._first(sorted(self._of(without), key=lambda cost: cost.bytes))
        assert found is not None  # noqa: S101  there is that of `shard` alone
        return found

    def _of(self, without: str) -> list[Estimate]:
        return [cost for cost in self._costs if not without or getattr(cost.mesh, without) == 1]

    def _first(self, some: list[Estimate]) -> Estimate | None:
        return next((cost for cost in some if self._possible(cost.mesh)), None)


def _meshes(ranks: int, per_node: int, *, layers: int, context: int) -> Iterator[Mesh]:
    """Every mesh of so many ranks; tensor groups stay on a node, and sizes are powers of two, or what is left.

    Args:
        layers: of the model, of which each rank of a pipeline has one at least.
        context: its most ranks.
    """
    for tensor in _sizes(per_node, ranks):
        for pipeline in _sizes(layers, ranks // tensor):
            for parts in _sizes(context, ranks // tensor // pipeline):
                data = ranks // tensor // pipeline // parts
                for replicate in {*_sizes(data, data), data}:
                    shard = data // replicate
                    for expert in _sizes(ranks, shard * parts):
                        yield Mesh(replicate, shard, tensor, expert, pipeline, stages=pipeline, context=parts)


def _sizes(most: int, whole: int) -> list[int]:
    """Powers of two that divide the whole."""
    powers = [2**power for power in range(most.bit_length())]
    return [size for size in powers if size <= most and whole % size == 0]


def _axes(mesh: Mesh) -> list[str]:
    return [axis for axis in AXES if getattr(mesh, axis) > 1]


def _plainness(mesh: Mesh) -> tuple[int, ...]:
    return len(_axes(mesh)), *(getattr(mesh, axis) for axis in AXES)


def _misfit(work: Workload, least: Estimate, ranks: int, gpu: Gpu) -> ConfigError:
    largest = max(least.memory, key=lambda what: least.memory[what])
    return ConfigError(
        f"{FIELD}.auto: the model doesn't fit on {ranks} GPUs of {gpu.memory / GIB:.0f} GiB: even {least.mesh} takes "
        f"{least.bytes / GIB:.0f} GiB a GPU, most of it {largest}; take more GPUs, {_remedy(work)}"
    )


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
