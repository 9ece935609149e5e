"""Whether the device mesh of `spec.trainer.parallelism` can be laid out over the workers, as far as the manifest says.

Known is the number of processes where `workers.procPerNode` is a number. Where it is left to the GPUs or to a profile, and
whether the model can be shared out so, the trainer finds when it starts, and says the same.
"""

from __future__ import annotations

import math
from typing import Any

from deepseek_operator.api.fields import Rule

_MESH = "self.trainer.parallelism"
_OPEN = f"!has(self.trainer) || !has({_MESH}) || !has(self.workers.procPerNode) || string(self.workers.procPerNode) == 'auto'"
_PROCESSES = "int(string(self.workers.procPerNode))"
_UNIT = (
    f"({_MESH}.pipeline * (has({_MESH}.replicate) ? {_MESH}.replicate : 1) * "
    f"(has({_MESH}.shard) ? {_MESH}.shard : 1) * {_MESH}.tensor * {_MESH}.context)"
)
_FIXED = f"(has({_MESH}.replicate) && has({_MESH}.shard))"


def _sizes(spec: Any) -> dict[str, int]:
    """The sizes that are given and divide the world."""
    given = spec.trainer.get("parallelism") if spec.trainer is not None else None
    if not isinstance(given, dict):
        return {}
    sizes = {name: given.get(name) for name in ("pipeline", "replicate", "shard", "context", "tensor")}
    return {name: size for name, size in sizes.items() if isinstance(size, int) and size > 0}


def _processes(spec: Any) -> int | None:
    """In a pod; None: the manifest doesn't say."""
    said = spec.workers.proc_per_node
    return int(said) if said is not None and said != "auto" else None


def _fills(spec: Any) -> bool:
    sizes, processes = _sizes(spec), _processes(spec)
    if processes is None:
        return True
    ranks, unit = spec.workers.replicas * processes, math.prod(sizes.values())
    return bool(ranks == unit if {"replicate", "shard"} <= sizes.keys() else ranks % unit == 0)


def _fills_each(spec: Any) -> bool:
    sizes, processes = _sizes(spec), _processes(spec)
    if spec.elastic is None or spec.elastic.min_replicas == spec.elastic.max_replicas or processes is None:
        return True
    return not {"replicate", "shard"} <= sizes.keys() and processes % math.prod(sizes.values()) == 0


RULES = (
    Rule(
        f"{_OPEN} || ({_FIXED} ? self.workers.replicas * {_PROCESSES} == {_UNIT} : "
        f"self.workers.replicas * {_PROCESSES} % {_UNIT} == 0)",
        "the sizes of the mesh don't fit the number of processes, workers.replicas x workers.procPerNode: pipeline x replicate x "
        "shard x context x tensor must divide it, or be it where both replicate and shard are set; leave one of them out, and it takes "
        "what is left",
        ".trainer.parallelism",
        holds=_fills,
    ),
    Rule(
        f"!has(self.elastic) || self.elastic.minReplicas == self.elastic.maxReplicas || {_OPEN} || "
        f"(!{_FIXED} && {_PROCESSES} % {_UNIT} == 0)",
        "an elastic job needs a mesh for any number of workers: pipeline x replicate x shard x context x tensor must divide "
        "workers.procPerNode, and replicate or shard be left out, to take what is left",
        ".trainer.parallelism",
        holds=_fills_each,
    ),
    Rule(
        f"!has(self.trainer) || !has({_MESH}) || ({_MESH}.tensor == 1 && {_MESH}.pipeline == 1 && {_MESH}.context == 1) || "
        "!has(self.data) || !has(self.data.mode) || self.data.mode != 'Dynamic'",
        "mode Dynamic leases rows to each process, and those of a tensor or context group or of a pipeline need the same "
        "ones: set data.mode to Deterministic, or trainer.parallelism.tensor, context and pipeline to 1",
        ".data.mode",
        holds=lambda spec: (
            all(_sizes(spec).get(name, 1) == 1 for name in ("tensor", "context", "pipeline"))
            or spec.data is None
            or spec.data.trainers().get("mode") != "Dynamic"
        ),
    ),
)
