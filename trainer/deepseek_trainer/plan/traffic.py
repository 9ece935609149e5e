"""What a rank sends in a step, by axis, and how long that takes."""

from __future__ import annotations

from deepseek_trainer.config.mesh import Mesh
from deepseek_trainer.plan.hardware import LINK_SHARE, Gpu
from deepseek_trainer.plan.workload import Local, Part, Workload, key_value_numbers


def sent(work: Workload, mesh: Mesh, part: Part, tokens: int, micro_steps: int) -> dict[str, float]:
    """Bytes that a rank sends in a step: rings send a share of (n - 1) / n."""
    model, local = work.architecture, Local.of(work.architecture, mesh, part)
    layers = sum(count for count, *_ in part.kinds)
    mixtures = sum(count for count, _, routed in part.kinds if routed)
    rows = tokens * model.hidden * work.width * micro_steps
    again = 2 if work.checkpointing == "full" else 1
    pairs = key_value_numbers(model, mesh, tokens) * layers * micro_steps

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


def waits(mesh: Mesh, traffic: dict[str, float], gpu: Gpu, per_node: int) -> tuple[float, float]:
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
