"""What each step computes, and what of the model a rank has of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deepseek_trainer.config.mesh import Mesh
from deepseek_trainer.plan import pipeline
from deepseek_trainer.plan.architecture import Architecture, Block


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
class Part:
    """What one rank of a pipeline has of the model; without a pipeline all of it.

    Attributes:
        kinds: as `Architecture.kinds`, of its layers.
        embeddings: how many matrices of the size of the embedding it has: that and the output layer, if they are two. Modules
            for further tokens need both.
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
    def of(cls, model: Architecture, mesh: Mesh, place: int, micro_steps: int) -> Part:
        stages = mesh.stages_of(place)
        layers = [layer for stage in stages for layer in mesh.layers_of(stage, model.layers)]
        dense = sum(layer < model.dense_layers for layer in layers)
        first, last = 0 in stages, mesh.stages - 1 in stages
        further = model.further if last else 0
        matrices = 1 if model.tied and (first or last) else bool(first or further) + last
        kept = pipeline.kept(mesh, place, micro_steps)
        logits = micro_steps if mesh.pipeline > 1 and mesh.schedule == "GPipe" else 1
        return cls(model.kinds_of(dense, len(layers) - dense, further), matrices, last, kept, logits)

    @classmethod
    def several(cls, model: Architecture, mesh: Mesh, micro_steps: int) -> list[Part]:
        """What the ranks of a pipeline have; of those that have the same, the one that keeps the most."""
        parts = [cls.of(model, mesh, place, micro_steps) for place in range(mesh.pipeline)]
        parts.sort(key=lambda part: part.kept)
        return list({(*part.kinds, part.embeddings, part.last): part for part in parts}.values())


@dataclass(frozen=True)
class Local:
    """Parameters on a rank before they are sharded: outside of the layers, in them, of experts; and the largest layer."""

    root: float
    dense: float
    experts: float
    largest: float

    @classmethod
    def of(cls, model: Architecture, mesh: Mesh, part: Part) -> Local:
        """Of what the tensor axis leaves each rank. Experts count as if gathered over the whole shard axis."""

        def numbers(block: Block) -> float:
            return block.whole + block.shared / mesh.tensor

        layers = [
            (count, numbers(model.attention) + numbers(block), routed / mesh.tensor)
            for count, block, routed in part.kinds
        ]
        head = part.last and not model.tied
        return cls(
            root=(part.embeddings - head) * model.embedding
            + head * model.embedding / mesh.tensor
            + part.last * model.hidden,
            dense=sum(count * dense for count, dense, _ in layers),
            experts=sum(count * routed for count, _, routed in layers),
            largest=max(dense + routed / mesh.expert for _, dense, routed in layers),
        )


def key_value_numbers(model: Architecture, mesh: Mesh, tokens: int) -> float:
    """Numbers of the keys and values of so many tokens, in a layer."""
    return tokens * model.key_value_heads * (model.head_size + model.value_size) / mesh.tensor
