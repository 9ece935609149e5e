"""Checkpoints in memory, `spec.checkpoint.memory`: how much of it they may take, and whose."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from deepseek_operator.api.fields import Model, Quantity, Rule, parse_quantity


class CheckpointMemory(Model):
    """The last checkpoint once more, in the memory of the nodes, for starts that need read neither volume nor object store."""

    size: Quantity = Field(
        description="The most that it may take in each pod. A node's part of a checkpoint is what its ranks have of weights "
        "and optimizer. Twice that holds it, beside the one that is being written; with `peer` it is three times. With less the "
        "older one goes before the new one is whole, and what has no room at all is read where it was committed. It counts "
        "towards the memory limit of the worker: raise workers.resources by as much."
    )
    peer: bool = Field(
        True,
        description="Whether each node keeps the part of the node before it, too, so that a pod that was replaced needs "
        "nothing of the volume, or of the object store. It is fetched over the pods' network after each save, while steps go on.",
    )


def _below_the_limit(spec: Any) -> bool:
    if spec.checkpoint is None or spec.checkpoint.memory is None:
        return True
    limit = spec.workers.resources.limits.get("memory")
    return limit is None or parse_quantity(spec.checkpoint.memory.size) < parse_quantity(limit)


_HAS = "has(self.checkpoint) && has(self.checkpoint.memory)"
_LIMITED = (
    "has(self.workers.resources) && has(self.workers.resources.limits) && 'memory' in self.workers.resources.limits"
)
RULES = (
    Rule(
        f"!({_HAS}) || has(self.trainer)",
        "checkpoint.memory is of the built-in trainer; with entrypoint, remove it",
        ".checkpoint.memory",
        holds=lambda spec: spec.checkpoint is None or spec.checkpoint.memory is None or spec.trainer is not None,
    ),
    Rule(
        f"!({_HAS}) || !({_LIMITED}) || quantity(string(self.checkpoint.memory.size))"
        ".compareTo(quantity(string(self.workers.resources.limits['memory']))) < 0",
        "checkpoint.memory.size is memory of the worker and leaves nothing of its limit to training; raise "
        "workers.resources.limits.memory, or lower checkpoint.memory.size",
        ".checkpoint.memory.size",
        holds=_below_the_limit,
    ),
)
"""Of the spec."""
