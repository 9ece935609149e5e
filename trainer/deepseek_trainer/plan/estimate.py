"""What training under a mesh costs each rank: memory, traffic of a step, and a range for its time. By formulas.

A time is a range: at best computation runs as fast as the best published runs and hides the traffic of weights; at worst
as slow as usual ones, and hides nothing. Traffic of the tensor and expert axes is hidden by neither; keys and
values that go round a context group travel while attention is computed with those that are there.

Of the ranks the one counts that has the most sequences. Of those of a pipeline the one that needs the most memory, and the
one that computes the most: all wait for it, and while the pipeline fills and runs empty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from deepseek_trainer.config.mesh import Mesh
from deepseek_trainer.plan import memory, pipeline, traffic
from deepseek_trainer.plan.hardware import LINK_SHARE, Gpu
from deepseek_trainer.plan.workload import Part, Workload

DENSE_SPEED = (0.35, 0.55)
"""Share of the peak at which dense models compute in published runs: Llama-3.1 8B on H100s makes 33 to 42 % of it."""
MIXTURE_SPEED = (0.13, 0.35)
"""The same for mixtures of experts: 13 to 21 % out of the box for a 16B on B200s, up to 35 % in tuned runs."""
LAYER_S = 0.5e-3
"""What a layer takes at least for a micro-batch, forward and backward, however small: its kernels are launched one by one."""
RING_PASSES = (64, 86)
"""Bytes that the ring's attention, which has no fused kernel, reads and writes for a score, forward and backward."""


@dataclass(frozen=True)
class Estimate:
    """The cost of a mesh for a workload.

    Attributes:
        memory: bytes on each rank, by what they are.
        traffic: bytes that each rank sends in a step, by axis.
        seconds: of a step, at best and at worst.
        mfu: share of the peak that the model's own operations are, at worst and at best.
        idle: share of the time in which the ranks of a pipeline wait for its beginning and its end.
        micro_batches: of a step, one after the other.
        ring: seconds of a step, of those of `seconds`, in which the attention of a context group moves its scores.
    """

    mesh: Mesh
    memory: dict[str, float]
    traffic: dict[str, float]
    seconds: tuple[float, float]
    mfu: tuple[float, float]
    idle: float
    micro_batches: int
    ring: float

    @property
    def typical(self) -> float:
        """Seconds of a step, in the middle of the range."""
        return sum(self.seconds) / 2

    @property
    def bytes(self) -> float:
        return sum(self.memory.values())

    def fits(self, gpu: Gpu) -> bool:
        return self.bytes <= gpu.memory


def estimate(work: Workload, mesh: Mesh, gpu: Gpu, *, per_node: int) -> Estimate:
    """The cost on such GPUs.

    Args:
        per_node: ranks on one node; neighbouring ranks are on the same.
    """
    sequences = math.ceil(work.global_batch / (mesh.replicate * mesh.shard))
    micro_steps = max(1, math.ceil(sequences / work.micro_batch))
    tokens = math.ceil(min(work.micro_batch, sequences) * work.length / mesh.context)
    parts = Part.several(work.architecture, mesh, micro_steps)
    sizes = max((memory.needed(work, mesh, part, tokens, micro_steps) for part in parts), key=_total)
    sent = max((traffic.sent(work, mesh, part, tokens, micro_steps) for part in parts), key=_total)
    whole = work.architecture.operations(work.length) * work.length
    ideal = whole * work.global_batch / mesh.ranks / gpu.peak
    operations = whole * sequences * _largest_share(work, parts) / (mesh.context * mesh.tensor)
    extra = {"none": 0.0, "selective": 0.05, "full": 1 / 3}[work.checkpointing]
    low, high = MIXTURE_SPEED if work.architecture.mixture_layers else DENSE_SPEED
    hidden, exposed = traffic.waits(mesh, sent, gpu, per_node)
    idle = pipeline.idle(mesh, micro_steps)
    ring = max(_ring(work, mesh, part, sequences, gpu) for part in parts)
    launches = max(sum(count for count, *_ in part.kinds) for part in parts) * micro_steps * LAYER_S
    fast, slow = (max(operations * (1 + extra) / (gpu.peak * speed), launches) + ring for speed in (high, low))
    best = (max(fast, hidden) + exposed) / (1 - idle)
    worst = (slow + hidden + exposed) / (1 - idle)
    mfu = (ideal / worst, ideal / best)
    return Estimate(mesh, sizes, sent, (best, worst), mfu, idle, micro_steps, ring)


def _total(parts: Mapping[str, float]) -> float:
    return sum(parts.values())


def _largest_share(work: Workload, parts: list[Part]) -> float:
    """Of the model's operations, that of the part which has the most of them."""
    model = work.architecture

    def operations(part: Part) -> float:
        attended = 3 * model.heads * (model.head_size + model.value_size) * work.length
        active = model.experts_per_token / model.experts if model.experts else 0
        own = model.attention.whole + model.attention.shared
        layers = sum(
            count * (6 * (own + block.whole + block.shared + routed * active) + attended)
            for count, block, routed in part.kinds
        )
        return layers + part.last * 6 * (1 + model.further) * model.embedding

    return max(map(operations, parts)) / operations(Part.of(model, Mesh(), 0, 1))


def _ring(work: Workload, mesh: Mesh, part: Part, sequences: int, gpu: Gpu) -> float:
    """Seconds in which a rank moves the scores of a step between its memory and its processors."""
    if mesh.context == 1:
        return 0.0
    model, layers = work.architecture, sum(count for count, *_ in part.kinds)
    scores = sequences * layers * model.heads / mesh.tensor * work.length**2 / 2 / mesh.context
    forward, backward = RING_PASSES
    again = 2 if work.checkpointing == "full" else 1
    return scores * (again * forward + backward) / (LINK_SHARE * gpu.bandwidth)
