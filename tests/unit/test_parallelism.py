"""The sizes of a device mesh: what is left open fills the world, and what can't be is refused with what can."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from deepseek_trainer.config import ConfigError, RunConfig, TrainerSpec
from deepseek_trainer.config.mesh import Mesh
from deepseek_trainer.config.parallelism import Divisible, ParallelismSpec
from deepseek_trainer.distributed.world import World
from pydantic import ValidationError

DEEPSEEK = SimpleNamespace(
    num_attention_heads=16,
    num_key_value_heads=16,
    intermediate_size=512,
    moe_intermediate_size=96,
    n_routed_experts=12,
    n_shared_experts=2,
)
DENSE = SimpleNamespace(num_attention_heads=8, num_key_value_heads=2, intermediate_size=512)


@pytest.mark.parametrize(
    ("sizes", "ranks", "wanted"),
    [
        ({}, 1, Mesh(1, 1, 1, 1)),
        ({}, 7, Mesh(1, 7, 1, 1)),
        ({"shard": 1}, 4, Mesh(4, 1, 1, 1)),
        ({"shard": 8}, 32, Mesh(4, 8, 1, 1)),
        ({"replicate": 4}, 32, Mesh(4, 8, 1, 1)),
        ({"tensor": 4}, 32, Mesh(1, 8, 4, 1)),
        ({"shard": 4, "tensor": 2, "expert": 4}, 16, Mesh(2, 4, 2, 4)),
        ({"replicate": 2, "shard": 2}, 4, Mesh(2, 2, 1, 1)),
        ({"context": 4}, 32, Mesh(1, 8, context=4)),
        ({"shard": 2, "context": 2, "tensor": 2, "expert": 4}, 16, Mesh(2, 2, 2, 4, context=2)),
        ({"pipeline": 2, "shard": 2}, 8, Mesh(2, 2, pipeline=2, stages=2)),
        (
            {"pipeline": 4, "tensor": 2, "pipelineSchedule": "Interleaved1F1B"},
            16,
            Mesh(1, 2, 2, pipeline=4, schedule="Interleaved1F1B", stages=8),
        ),
        (
            {"pipeline": 4, "pipelineSchedule": "ZBVZeroBubble", "stagesPerProcess": 3},
            4,
            Mesh(pipeline=4, schedule="ZBVZeroBubble", stages=8),
        ),
    ],
)
def test_what_is_left_open_fills_the_world(sizes: dict[str, int], ranks: int, wanted: Mesh) -> None:
    mesh = ParallelismSpec.model_validate(sizes).mesh(ranks)
    assert mesh == wanted
    assert mesh.ranks == ranks


@pytest.mark.parametrize(
    ("sizes", "ranks", "says"),
    [
        ({"tensor": 3}, 8, "tensor: 3 does not divide the 8 processes; take one of 1, 2, 4, 8"),
        ({"replicate": 3}, 8, "replicate: 3 does not divide the 8 processes"),
        ({"shard": 3, "tensor": 2}, 8, "shard: 3 does not divide the 8 processes / tensor 2; take one of 1, 2, 4"),
        ({"replicate": 2, "shard": 2}, 8, "replicate 2 x shard 2 x tensor 1 is 4, and there are 8"),
        ({"pipeline": 3}, 8, "pipeline: 3 does not divide the 8 processes; take one of 1, 2, 4, 8"),
        ({"pipeline": 2, "tensor": 8}, 8, "tensor: 8 does not divide the 8 processes / pipeline 2"),
        ({"pipeline": 2, "replicate": 2, "shard": 4}, 8, "pipeline 2 x replicate 2 x shard 4 x tensor 1 is 16"),
        ({"context": 3, "tensor": 2}, 8, "context: 3 does not divide the 8 processes / tensor 2; take one of 1, 2, 4"),
        (
            {"replicate": 2, "shard": 1, "context": 2},
            8,
            "replicate 2 x shard 1 x context 2 x tensor 1 is 4, and there are 8",
        ),
        ({"context": 2, "expert": 3}, 8, "expert: 3 does not divide shard 4 x context 2; take one of 1, 2, 4, 8"),
        ({"expert": 4}, 6, "expert: 4 does not divide shard 6; take one of 1, 2, 3, 6"),
    ],
)
def test_a_mesh_that_does_not_fit_the_world_is_refused(sizes: dict[str, int], ranks: int, says: str) -> None:
    with pytest.raises(ConfigError, match=f"trainer.parallelism.*{says}"):
        ParallelismSpec.model_validate(sizes).mesh(ranks)


@pytest.mark.parametrize(
    ("config", "mesh", "says"),
    [
        (
            DEEPSEEK,
            Mesh(shard=8, expert=8),
            r"expert: 8 does not divide the 12 routed experts of a layer; take one of 1, 2, 3",
        ),
        (DEEPSEEK, Mesh(shard=2, tensor=4, expert=2), "expert x tensor: 8 does not divide the 12"),
        (DEEPSEEK, Mesh(tensor=3), r"tensor: 3 does not divide the model's attention heads \(16\)"),
        (DENSE, Mesh(shard=2, expert=2), "no routed experts; remove it"),
        (DENSE, Mesh(tensor=4), r"key-value heads \(2\); take one of 1, 2"),
        (SimpleNamespace(model_type="mamba"), Mesh(pipeline=2, stages=2), "type mamba is cut into stages"),
        (
            SimpleNamespace(n_layer=6),
            Mesh(pipeline=4, schedule="InterleavedZeroBubble", stages=8),
            "4 x stagesPerProcess 2 is more than the model's 6 layers",
        ),
        (
            SimpleNamespace(n_layer=6),
            Mesh(pipeline=4, schedule="DualPipeV", stages=8),
            "4 x 2 runs of layers with DualPipeV is more than the model's 6 layers.*take a pipeline of 3 or less",
        ),
    ],
)
def test_a_mesh_that_does_not_fit_the_model_is_refused(config: Any, mesh: Mesh, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Divisible.of(config).require(mesh)
    Divisible.of(config).require(Mesh(replicate=3, shard=5))


@pytest.mark.parametrize(
    ("parallelism", "data", "says"),
    [
        ({"auto": True, "shard": 2}, {}, "auto chooses the sizes itself"),
        ({"shard": 2, "expert": 4}, {}, "expert doesn't divide shard"),
        ({"auto": True, "pipeline": 2}, {}, "auto chooses the sizes itself"),
        ({"pipeline": 2}, {"mode": "Dynamic"}, "or of a pipeline need the same ones; set data.mode to Deterministic"),
        ({"tensor": 2}, {"mode": "Dynamic"}, "set data.mode to Deterministic"),
        ({"context": 2}, {"mode": "Dynamic"}, "a tensor or context group"),
        ({"auto": True, "context": 2}, {}, "auto chooses the sizes itself"),
    ],
)
def test_what_does_not_go_together_is_refused(parallelism: dict[str, Any], data: dict[str, Any], says: str) -> None:
    config = {
        "job": "j",
        "trainer": {"training": {"steps": 1}, "parallelism": parallelism},
        "data": {"corpus": "gcide", **data},
        "dataCache": "/nowhere",
    }
    with pytest.raises(ValidationError, match=says):
        RunConfig.model_validate(config)


@pytest.mark.parametrize(
    ("schedule", "counting", "adding"), [("1F1B", [4, 6], [4, 5, 6, 7]), ("DualPipeV", [0, 2], [0, 1, 2, 3])]
)
def test_who_knows_the_loss_speaks_for_those_that_get_the_same_rows(
    schedule: str, counting: list[int], adding: list[int]
) -> None:
    sizes = {"pipeline": 2, "pipelineSchedule": schedule, "context": 2}
    mesh = ParallelismSpec.model_validate(sizes).mesh(8)
    bare = [World(rank, rank, 8, torch.device("cpu"), cast(Any, None)) for rank in range(8)]
    worlds = [world.laid_out(mesh) for world in bare]
    assert [world.rank for world in worlds if world.counts] == counting
    assert [world.rank for world in worlds if world.adds] == adding
    assert [world.data_rank for world in worlds] == [0, 0, 1, 1] * 2


@pytest.mark.parametrize("training", [{"compile": "layers"}, {"precision": "fp8"}])
def test_what_computes_a_backward_pass_in_one_is_not_split(training: dict[str, Any]) -> None:
    def spec(schedule: str) -> dict[str, Any]:
        return {
            "training": {"steps": 1, **training},
            "parallelism": {"pipeline": 2, "pipelineSchedule": schedule},
        }

    TrainerSpec.model_validate(spec("Interleaved1F1B"))
    with pytest.raises(ValidationError, match=r"DualPipeV splits the backward pass .* or take Interleaved1F1B"):
        TrainerSpec.model_validate(spec("DualPipeV"))


def test_a_ring_is_no_kernel_that_was_chosen() -> None:
    trainer = {"training": {"steps": 1}, "parallelism": {"context": 2}, "model": {"attention": "Eager"}}
    with pytest.raises(ValidationError, match=r"set model\.attention to SDPA, or context to 1"):
        TrainerSpec.model_validate(trainer)
