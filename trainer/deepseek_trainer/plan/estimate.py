"""What training under a mesh costs each rank: memory, traffic of a step, and a range for its time. By formulas.

Memory follows the trainer: fp32 weights, gradients and two moments of AdamW lie in shards; a layer's weights are gathered
to be computed with, and of two layers at once; embedding and output layer stay gathered. Between the micro-batches of a
step gradients stay whole, and so do the weights, for one sum over the ranks a step; unless they are summed each time.

A time is a range: at best computation runs as fast as the best published runs and hides the traffic of weights; at worst
as slow as usual ones, and hides nothing. Traffic of the tensor and expert axes is hidden by neither; keys and
values that go round a context group travel while attention is computed with those that are there.

Of the ranks the one counts that has the most sequences. Of those of a pipeline the one that needs the most memory, and the
one that computes the most: all wait for it, and while the pipeline fills and runs empty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from deepseek_trainer.config.mesh import Mesh
from deepseek_trainer.plan import pipeline
from deepseek_trainer.plan.architecture import Architecture, Block
from deepseek_trainer.plan.hardware import GIB, Gpu

RESERVED = 1.5 * GIB
"""CUDA's context, NCCL's buffers and the library's workspaces."""
FRAGMENTS = 1.05
"""What the allocator loses."""
STATE_BYTES = 16
"""A parameter's weight, gradient and two moments, in fp32."""
LINK_SHARE = 0.8
"""Of a link's, or a memory's, bytes a second that is reached."""
DENSE_SPEED = (0.35, 0.55)
"""Share of the peak at which dense models compute in published runs: Llama-3.1 8B on H100s makes 33 to 42 % of it."""
MIXTURE_SPEED = (0.13, 0.35)
"""The same for mixtures of experts: 13 to 21 % out of the box for a 16B on B200s, up to 35 % in tuned runs."""
LAYER_S = 0.5e-3
"""What a layer takes at least for a micro-batch, forward and backward, however small: its kernels are launched one by one."""
RING_PASSES = (64, 86)
"""Bytes that the ring's attention, which has no fused kernel, reads and writes for a score, forward and backward."""
RING_SCORES = 192 * 2**20
"""Bytes of the scores that it computes at once, in all their shapes."""


@dataclass(frozen=True)
class Workload:
    """What each step computes.

    Attributes:
        micro_batch: the most sequences in a forward pass of a rank.
    """

    architecture: Architecture
    length: int
    global_batch: int
    micro_batch: int
    bf16: bool = True
    checkpointing: Literal["none", "selective", "full"] = "none"
    cpu_offload: bool = False
    reduced_each_time: bool = False
    """Gradients are summed over the ranks after each micro-batch."""

    @property
    def width(self) -> int:
        """Bytes of a number in the forward pass."""
        return 2 if self.bf16 else 4


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
    parts = _parts(work.architecture, mesh, micro_steps)
    memory = max(
        (_memory(work, mesh, part, tokens, micro_steps) for part in parts), key=lambda sizes: sum(sizes.values())
    )
    traffic = max(
        (_traffic(work, mesh, part, tokens, micro_steps) for part in parts), key=lambda sizes: sum(sizes.values())
    )
    whole = work.architecture.operations(work.length) * work.length
    ideal = whole * work.global_batch / mesh.ranks / gpu.peak
    operations = whole * sequences * _largest_share(work, parts) / (mesh.context * mesh.tensor)
    extra = {"none": 0.0, "selective": 0.05, "full": 1 / 3}[work.checkpointing]
    low, high = MIXTURE_SPEED if work.architecture.mixture_layers else DENSE_SPEED
    hidden, exposed = _waits(mesh, traffic, gpu, per_node)
    idle = pipeline.idle(mesh, micro_steps)
    ring = max(_ring(work, mesh, part, sequences, gpu) for part in parts)
    launches = max(sum(count for count, *_ in part.kinds) for part in parts) * micro_steps * LAYER_S
    fast, slow = (max(operations * (1 + extra) / (gpu.peak * speed), launches) + ring for speed in (high, low))
    best = (max(fast, hidden) + exposed) / (1 - idle)
    worst = (slow + hidden + exposed) / (1 - idle)
    mfu = (ideal / worst, ideal / best)
    return Estimate(mesh, memory, traffic, (best, worst), mfu, idle, micro_steps, ring)


@dataclass(frozen=True)
class _Part:
    """What one rank of a pipeline has of the model; without a pipeline all of it.

    Attributes:
        kinds: as `Architecture.kinds`, of its layers.
        embeddings: how many matrices of the size of the embedding it has: that and the output layer, if they are two.
        last: whether it computes the logits.
        kept: of how many micro-batches it keeps the activations at once.
        kept_logits: of how many it keeps the logits.
    """

    kinds: list[tuple[int, Block, int]]
    embeddings: int
    last: bool
    kept: float
    kept_logits: int

    @classmethod
    def of(cls, model: Architecture, mesh: Mesh, place: int, micro_steps: int) -> _Part:
        stages = mesh.stages_of(place)
        layers = [layer for stage in stages for layer in mesh.layers_of(stage, model.layers)]
        dense = sum(layer < model.dense_layers for layer in layers)
        kinds = [(dense, model.dense, 0), (len(layers) - dense, model.mixture, model.routed)]
        first, last = 0 in stages, mesh.stages - 1 in stages
        matrices = 1 if model.tied and (first or last) else first + last
        kept = pipeline.kept(mesh, place, micro_steps)
        logits = micro_steps if mesh.pipeline > 1 and mesh.schedule == "GPipe" else 1
        return cls([kind for kind in kinds if kind[0]], matrices, last, kept, logits)


def _parts(model: Architecture, mesh: Mesh, micro_steps: int) -> list[_Part]:
    """What the ranks of a pipeline have; of those that have the same, the one that keeps the most."""
    parts = [_Part.of(model, mesh, place, micro_steps) for place in range(mesh.pipeline)]
    parts.sort(key=lambda part: part.kept)
    return list({(*part.kinds, part.embeddings, part.last): part for part in parts}.values())


def _memory(work: Workload, mesh: Mesh, part: _Part, tokens: int, micro_steps: int) -> dict[str, float]:
    model = work.architecture
    local = _local(model, mesh, part)
    state = STATE_BYTES * (local.root + local.dense + local.experts) / mesh.sharded
    largest = 2 * local.largest * work.width + local.root * work.width + local.largest * 4
    memory = {
        "weights, gradients, AdamW": 0.0 if work.cpu_offload else state,
        "gathered weights": 0.0 if mesh.sharded == 1 and not work.bf16 else largest,
        "activations": _activations(work, mesh, part, tokens),
        "logits": part.kept_logits * tokens * model.vocabulary * (2 * work.width + 8.0) if part.last else 0.0,
        "reserved": RESERVED,
    }
    if micro_steps > 1 and not work.reduced_each_time:
        kept = local.root + local.dense + local.experts * mesh.expert_copies / mesh.sharded
        memory["whole gradients between micro-batches"] = kept * (4.0 + work.width)
    if mesh.context > 1:
        memory["keys and values on their way"] = _pairs(model, mesh, tokens) * (2 * work.width + 3 * 4.0)
        memory["scores of the ring"] = RING_SCORES
    return {what: size * (1 if what == "reserved" else FRAGMENTS) for what, size in memory.items() if size}


@dataclass(frozen=True)
class _Local:
    """Parameters on a rank before they are sharded: outside of the layers, in them, of experts; and the largest layer."""

    root: float
    dense: float
    experts: float
    largest: float


def _local(model: Architecture, mesh: Mesh, part: _Part) -> _Local:
    """Of what the tensor axis leaves each rank. Experts count as if gathered over the whole shard axis."""

    def of(block: Block) -> float:
        return block.whole + block.shared / mesh.tensor

    layers = [(count, of(model.attention) + of(block), routed / mesh.tensor) for count, block, routed in part.kinds]
    head = part.last and not model.tied
    return _Local(
        root=(part.embeddings - head) * model.embedding
        + head * model.embedding / mesh.tensor
        + part.last * model.hidden,
        dense=sum(count * dense for count, dense, _ in layers),
        experts=sum(count * routed for count, _, routed in layers),
        largest=max(dense + routed / mesh.expert for _, dense, routed in layers),
    )


def _activations(work: Workload, mesh: Mesh, part: _Part, tokens: int) -> float:
    """What all layers keep, and what one of them takes while it is computed again."""
    model = work.architecture

    def kept(block: Block) -> float:
        return block.narrow + block.wide / mesh.tensor

    layers = [(count, kept(model.attention) + kept(block)) for count, block, _ in part.kinds]
    if work.checkpointing == "none":
        return part.kept * tokens * work.width * sum(count * size for count, size in layers)
    inputs = sum(count for count, _ in layers) * model.hidden
    if work.checkpointing == "selective":
        inputs += sum(count * (model.attention.products + block.products) for count, block, _ in part.kinds)
    return tokens * work.width * (part.kept * inputs + max(size for _, size in layers))


def _largest_share(work: Workload, parts: list[_Part]) -> float:
    """Of the model's operations, that of the part which has the most of them."""
    model = work.architecture

    def operations(part: _Part) -> float:
        attended = 3 * model.heads * (model.head_size + model.value_size) * work.length
        active = model.experts_per_token / model.experts if model.experts else 0
        own = model.attention.whole + model.attention.shared
        layers = sum(
            count * (6 * (own + block.whole + block.shared + routed * active) + attended)
            for count, block, routed in part.kinds
        )
        return layers + part.last * 6 * model.embedding

    return max(map(operations, parts)) / operations(_Part.of(model, Mesh(), 0, 1))


def _ring(work: Workload, mesh: Mesh, part: _Part, sequences: int, gpu: Gpu) -> float:
    """Seconds in which a rank moves the scores of a step between its memory and its processors."""
    if mesh.context == 1:
        return 0.0
    model, layers = work.architecture, sum(count for count, *_ in part.kinds)
    scores = sequences * layers * model.heads / mesh.tensor * work.length**2 / 2 / mesh.context
    forward, backward = RING_PASSES
    again = 2 if work.checkpointing == "full" else 1
    return scores * (again * forward + backward) / (LINK_SHARE * gpu.bandwidth)


def _pairs(model: Architecture, mesh: Mesh, tokens: int) -> float:
    """Numbers of the keys and values of so many tokens, in a layer."""
    return tokens * model.key_value_heads * (model.head_size + model.value_size) / mesh.tensor


def _traffic(work: Workload, mesh: Mesh, part: _Part, tokens: int, micro_steps: int) -> dict[str, float]:
    """Bytes that a rank sends in a step: rings send a share of (n - 1) / n."""
    model, local = work.architecture, _local(work.architecture, mesh, part)
    layers = sum(count for count, *_ in part.kinds)
    mixtures = sum(count for count, _, routed in part.kinds if routed)
    rows = tokens * model.hidden * work.width * micro_steps
    again = 2 if work.checkpointing == "full" else 1
    pairs = _pairs(model, mesh, tokens) * layers * micro_steps

    def ring(ranks: int) -> float:
        return (ranks - 1) / ranks

    dense, experts = local.root + local.dense, local.experts / mesh.expert
    gathers = (1 + micro_steps) * work.width + 4
    if work.reduced_each_time:
        gathers = micro_steps * (2 * work.width + 4)
    traffic = {
        "shard": gathers * (dense * ring(mesh.sharded) + experts * ring(mesh.expert_copies)),
        "replicate": 2 * ring(mesh.replicate) * 4 * (dense + local.experts) / mesh.sharded,
        # Two sums forward, of attention and feed-forward, and two sums of gradients backward.
        "tensor": 2 * ring(mesh.tensor) * rows * layers * (2 * again + 2),
        # Keys and values go round, all but the last step; backward again, and with them their gradients in fp32, all steps.
        "context": (mesh.context - 1) * pairs * (again + 1) * work.width
        + (mesh.context > 1) * mesh.context * pairs * 4,
        # There and back, forward and backward.
        "expert": ring(mesh.expert) * rows * model.experts_per_token * mixtures * (2 * again + 2) / mesh.tensor,
        # What each stage has made, and the gradient of what it was given.
        "pipeline": rows * 2 * mesh.stages / mesh.pipeline if mesh.pipeline > 1 else 0.0,
    }
    return {axis: size for axis, size in traffic.items() if size}


def _waits(mesh: Mesh, traffic: dict[str, float], gpu: Gpu, per_node: int) -> tuple[float, float]:
    """Seconds of traffic that computation can hide, and of traffic that it can't."""
    span = {
        "tensor": mesh.tensor,
        "context": mesh.tensor * mesh.context,
        "expert": mesh.tensor * mesh.expert,
        "shard": mesh.tensor * mesh.sharded,
        "replicate": mesh.ranks // mesh.pipeline,
        "pipeline": mesh.ranks // mesh.pipeline + 1,  # the next stage's ranks come after all of this one's
    }
    seconds = {
        axis: size / (LINK_SHARE * (gpu.link if span[axis] <= per_node else gpu.network))
        for axis, size in traffic.items()
    }
    hidden = sum(seconds.get(axis, 0.0) for axis in ("shard", "replicate", "context", "pipeline"))
    return hidden, seconds.get("tensor", 0.0) + seconds.get("expert", 0.0)
