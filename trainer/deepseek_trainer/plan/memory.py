"""What a rank has in its memory at most in a step, by what it is.

It follows the trainer: fp32 weights, gradients and two moments of AdamW lie in shards; a layer's weights are gathered
to be computed with, and of two layers at once; embedding and output layer stay gathered. Between the micro-batches of a
step gradients stay whole, and so do the weights, for one sum over the ranks a step; unless they are summed each time.
"""

from __future__ import annotations

from deepseek_trainer.config.mesh import Mesh
from deepseek_trainer.plan.architecture import Block
from deepseek_trainer.plan.hardware import GIB
from deepseek_trainer.plan.workload import Local, Part, Workload, key_value_numbers

RESERVED = 1.5 * GIB
"""CUDA's context, NCCL's buffers and the library's workspaces."""
FRAGMENTS = 1.05
"""What the allocator loses."""
STATE_BYTES = 16
"""A parameter's weight, gradient and two moments, in fp32."""
LOGIT_BYTES = {False: 4.0, True: 4.0 + 2.0}
"""A logit's, in fp32, where its gradient will be; by bf16: beside it what the model has answered, or what it gets back."""
RING_SCORES = 192 * 2**20
"""Bytes of the scores that it computes at once, in all their shapes."""


def needed(work: Workload, mesh: Mesh, part: Part, tokens: int, micro_steps: int) -> dict[str, float]:
    """Bytes by what they are.

    Args:
        tokens: of this rank in a micro-batch.
    """
    model = work.architecture
    local = Local.of(model, mesh, part)
    state = STATE_BYTES * (local.root + local.dense + local.experts) / mesh.sharded
    largest = 2 * local.largest * work.width + local.root * work.width + local.largest * 4
    memory = {
        "weights, gradients, AdamW": 0.0 if work.cpu_offload else state,
        "gathered weights": 0.0 if mesh.sharded == 1 and not work.bf16 else largest,
        "activations": _activations(work, mesh, part, tokens),
        "logits": _logits(work, part, tokens) if part.last else 0.0,
        "reserved": RESERVED,
    }
    if micro_steps > 1 and not work.reduced_each_time:
        kept = local.root + local.dense + local.experts * mesh.expert_copies / mesh.sharded
        memory["whole gradients between micro-batches"] = kept * (4.0 + work.width)
    if mesh.context > 1:
        memory["keys and values on their way"] = key_value_numbers(model, mesh, tokens) * (2 * work.width + 3 * 4.0)
        memory["scores of the ring"] = RING_SCORES
    return {what: size * (1 if what == "reserved" else FRAGMENTS) for what, size in memory.items() if size}


def _logits(work: Workload, part: Part, tokens: int) -> float:
    """Those of the modules for further tokens too, which are all there before the backward pass begins."""
    model = work.architecture
    return part.kept_logits * (1 + model.further) * tokens * model.vocabulary * LOGIT_BYTES[work.bf16]


def _activations(work: Workload, mesh: Mesh, part: Part, tokens: int) -> float:
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
