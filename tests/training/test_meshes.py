"""Every mesh trains the same model: losses, gradients and weights of one process, resumed and resharded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.procs import start_training

pytestmark = [pytest.mark.training, pytest.mark.timeout(600)]

Layout = dict[str, Any]

ON_FOUR: list[Layout] = [
    {"model": "deepseek", "parallelism": {"replicate": 2, "shard": 2, "expert": 2}},
    {"model": "deepseek", "parallelism": {"pipeline": 2, "tensor": 2}},
    {"model": "deepseek", "parallelism": {"tensor": 2, "expert": 2}},
    {"model": "deepseek", "parallelism": {"context": 2, "expert": 4}},
    {"model": "further", "parallelism": {"pipeline": 2, "expert": 2}},
    {
        "model": "further",
        "parallelism": {"pipeline": 2, "context": 2},
        "training": {"activationCheckpointing": "full"},
    },
    {"model": "deep", "parallelism": {"pipeline": 2, "expert": 2, "pipelineSchedule": "InterleavedZeroBubble"}},
    {
        "model": "deep",
        "parallelism": {"pipeline": 2, "tensor": 2, "pipelineSchedule": "ZBVZeroBubble"},
        "training": {"reduceGradients": "microBatch"},
    },
    {"model": "dense", "parallelism": {"replicate": 2, "tensor": 2}},
    {"model": "dense", "parallelism": {"replicate": 2, "context": 2}},
    {"model": "dense", "parallelism": {"context": 2, "tensor": 2}},
    {"model": "gpt2", "parallelism": {"pipeline": 2, "replicate": 2, "pipelineSchedule": "Interleaved1F1B"}},
]
"""Each two axes together; what a size leaves is of `shard`."""
ON_TWO: list[Layout] = [
    {"model": "deepseek", "parallelism": {"shard": 1}},
    {"model": "deepseek", "parallelism": {"tensor": 2}},
    {"model": "deepseek", "parallelism": {"expert": 2}, "training": {"activationCheckpointing": "selective"}},
    {"model": "deepseek", "parallelism": {"pipeline": 2}},
    {
        "model": "deep",
        "parallelism": {"pipeline": 2, "pipelineSchedule": "DualPipeV"},
        "training": {"activationCheckpointing": "selective"},
    },
    {"model": "gpt2", "parallelism": {"pipeline": 2, "pipelineSchedule": "ZBVZeroBubble"}},
    {"model": "dense", "parallelism": {}, "training": {"reduceGradients": "microBatch"}},
    {"model": "dense", "parallelism": {"pipeline": 2, "pipelineSchedule": "GPipe"}},
    {"model": "dense", "parallelism": {"tensor": 2}},
    {"model": "dense", "parallelism": {"context": 2}, "training": {"activationCheckpointing": "selective"}},
]
ROUGH = 5e-2
"""In bf16."""
EXACT, CLOSE = 1e-6, 2e-4
"""In the first step; and later, when AdamW has made steps of the rounding of gradients that are next to nothing."""


def run(layouts: list[Layout], ranks: int, folder: Path) -> list[dict[str, Any]]:
    environ = {"LAYOUTS": json.dumps(layouts), "CHECKPOINTS": str(folder / "checkpoints")}
    ended = start_training({}, world_size=ranks, folder=folder, environ=environ, module="support.layouts").wait(500)
    assert all(rank.exit_code == 0 for rank in ended), "\n".join(rank.output[-3000:] for rank in ended)
    said = [json.loads(line) for line in ended[0].output.splitlines() if line.startswith("{")]
    assert len(said) == len(layouts)
    return said


@pytest.mark.parametrize(("ranks", "layouts"), [(4, ON_FOUR), (2, ON_TWO)], ids=["four ranks", "two ranks"])
def test_each_mesh_is_one_process(ranks: int, layouts: list[Layout], tmp_path: Path) -> None:
    for said in run(layouts, ranks, tmp_path):
        assert said["clipped"], "clipping is tested, too"
        assert said["first_step"] < EXACT, said
        assert said["from_one_process"] < CLOSE, said
        assert said["resumed"], f"a resume must be bit for bit the undisturbed run: {said}"
        assert said.get("resharded", 0) < CLOSE, f"from the checkpoint of another mesh: {said}"


def test_recomputation_and_offload_change_nothing_but_memory(tmp_path: Path) -> None:
    layouts: list[Layout] = [
        {"model": "deepseek", "parallelism": {}, "training": {"activationCheckpointing": mode}, "peak": True}
        for mode in ("none", "selective", "full")
    ]
    layouts.append({"model": "deepseek", "parallelism": {}, "training": {"cpuOffload": True}})
    half = {"precision": "bf16", "activationCheckpointing": "selective"}  # the router is sharded by itself
    *said, rounded = run([*layouts, {"model": "deepseek", "parallelism": {}, "training": half}], 1, tmp_path)
    assert rounded["resumed"], rounded
    assert rounded["from_one_process"] < ROUGH, rounded
    assert all(one["like_the_first"] and one["resumed"] for one in said), said
    assert all(one["from_one_process"] < CLOSE for one in said), said
    none, selective, full = (one["peak"] for one in said[:3])
    assert full < selective < none, said
