"""The device mesh: along which axes the ranks share the batch and the model.

    ranks = pipeline x replicate x shard x context x tensor            expert divides shard x context

Sizes only; importable without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Schedule = Literal["GPipe", "1F1B", "Interleaved1F1B", "InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV"]
INTERLEAVED: frozenset[Schedule] = frozenset({"Interleaved1F1B", "InterleavedZeroBubble"})
"""With as many stages on each rank as one likes, dealt out in turns."""
IN_A_V: frozenset[Schedule] = frozenset({"ZBVZeroBubble", "DualPipeV"})
"""With two stages on each rank, one from each end, so that micro-batches go down the ranks and up again."""
ZERO_BUBBLE: frozenset[Schedule] = frozenset({"InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV"})
"""That split the backward pass, and compute gradients of weights while they would wait."""
FIELD = "trainer.parallelism"


@dataclass(frozen=True)
class Mesh:
    """The sizes of a mesh that fits its world.

    Attributes:
        replicate: groups of ranks that have the whole model each.
        shard: ranks that share weights, gradients and optimizer of each such group (FSDP2).
        tensor: neighbouring ranks that share each matrix, and work on the same rows.
        expert: of the ranks that share weights, neighbours that share the routed experts.
        pipeline: ranks that share the layers, each with some of them, and work on the same rows one after the other.
        schedule: in which order these do it.
        stages: runs of neighbouring layers that the model is cut into; a multiple of `pipeline`.
        context: ranks that have a part of each sequence of the same rows. They share weights as those of `shard` do.
    """

    replicate: int = 1
    shard: int = 1
    tensor: int = 1
    expert: int = 1
    pipeline: int = 1
    schedule: Schedule = "1F1B"
    stages: int = 1
    context: int = 1

    @property
    def ranks(self) -> int:
        return self.pipeline * self.replicate * self.sharded * self.tensor

    @property
    def sharded(self) -> int:
        """Ranks among which weights, gradients and optimizer lie."""
        return self.shard * self.context

    @property
    def expert_copies(self) -> int:
        """Ranks of these that have the same experts, and share their weights."""
        return self.sharded // self.expert

    def layers_of(self, stage: int, layers: int) -> range:
        """Which of the model's layers are a stage's. Where they can't be shared evenly, the stages in the middle have one
        more: the first and above all the last have the embedding and the output layer beside them."""
        least, more = divmod(layers, self.stages)
        begin = (self.stages - more) // 2
        sizes = [least + (begin <= number < begin + more) for number in range(self.stages)]
        return range(sum(sizes[:stage]), sum(sizes[: stage + 1]))

    def stages_of(self, place: int) -> Sequence[int]:
        """Which stages a rank has, by its place in the pipeline."""
        if self.schedule in IN_A_V:
            return sorted({place, self.stages - 1 - place})
        return range(place, self.stages, self.pipeline)

    def place_of(self, stage: int) -> int:
        """Which rank of the pipeline has a stage."""
        if self.schedule in IN_A_V:
            return min(stage, self.stages - 1 - stage)
        return stage % self.pipeline

    @property
    def splits_backward(self) -> bool:
        """Whether gradients of weights are computed later than those of inputs."""
        return self.pipeline > 1 and self.schedule in ZERO_BUBBLE

    def __str__(self) -> str:
        names = ("pipeline", "replicate", "shard", "context", "tensor", "expert")
        sizes = {name: getattr(self, name) for name in names}
        return ",".join(f"{name}:{size}" for name, size in sizes.items() if size > 1 or name == "shard")
