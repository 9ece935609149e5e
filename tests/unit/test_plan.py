"""What `dsj plan` says: memory, traffic and the choice of a mesh, by formulas; and the rule of thumb that they agree with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from deepseek_client.cli import main
from deepseek_trainer.config import ConfigError
from deepseek_trainer.config.parallelism import Divisible, Mesh
from deepseek_trainer.plan.architecture import Architecture
from deepseek_trainer.plan.choose import choose
from deepseek_trainer.plan.estimate import Workload, estimate
from deepseek_trainer.plan.hardware import GPUS, of_product

CARD = GPUS["a100-40"]
LLAMA = SimpleNamespace(
    model_type="llama",
    vocab_size=32_000,
    hidden_size=2048,
    num_attention_heads=16,
    num_hidden_layers=24,
    intermediate_size=5632,
)
DEEPSEEK_V3 = SimpleNamespace(
    vocab_size=129_280,
    hidden_size=7168,
    num_hidden_layers=61,
    num_attention_heads=128,
    num_key_value_heads=128,
    q_lora_rank=1536,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    intermediate_size=18_432,
    moe_intermediate_size=2048,
    n_routed_experts=256,
    num_experts_per_tok=8,
    n_shared_experts=1,
    first_k_dense_replace=3,
)


def dense(layers: int) -> Workload:
    model = Architecture.of(SimpleNamespace(**{**vars(LLAMA), "num_hidden_layers": layers}))
    return Workload(model, length=2048, global_batch=64, micro_batch=1, checkpointing="full")


def test_the_published_sizes() -> None:
    model = Architecture.of(DEEPSEEK_V3)
    assert model.parameters == pytest.approx(671e9, rel=0.001)
    assert model.active == pytest.approx(37e9, rel=0.03)


def test_a_card_of_40_gib_trains_about_two_billion_parameters() -> None:
    """DIST-13: so many as fit in the states alone, with a step of one micro-batch and checkpointing."""
    work = [replace(dense(layers), global_batch=1) for layers in range(8, 80)]
    fitting = [one for one in work if estimate(one, Mesh(), CARD, per_node=1).fits(CARD)]
    assert 1.6e9 < fitting[-1].architecture.parameters < 2.4e9


def test_each_axis_does_what_it_is_for() -> None:
    work = dense(24)
    alone, sharded, split = (
        estimate(work, mesh, CARD, per_node=8) for mesh in (Mesh(8, 1), Mesh(1, 8), Mesh(1, 1, tensor=8))
    )
    state = "weights, gradients, AdamW"
    assert alone.memory[state] == pytest.approx(8 * sharded.memory[state])
    assert split.memory["activations"] < alone.memory["activations"]
    assert set(alone.traffic) == {"replicate"}
    assert set(sharded.traffic) == {"shard"}
    assert set(split.traffic) == {"tensor"}
    divided = estimate(replace(work, global_batch=1), Mesh(1, 1, context=8), CARD, per_node=8)
    one = estimate(replace(work, global_batch=1), Mesh(), CARD, per_node=8)
    assert divided.memory["activations"] == pytest.approx(one.memory["activations"] / 8)
    assert divided.memory[state] == pytest.approx(one.memory[state] / 8)
    assert set(divided.traffic) == {"shard", "context"}
    numbers = 2 * work.length / 8 * 2048 * 24  # keys and values of a part, in all layers: as wide as the model
    assert divided.traffic["context"] == pytest.approx(numbers * (7 * 3 * 2 + 8 * 4))
    kept = [
        estimate(replace(work, checkpointing=mode), Mesh(1, 8), CARD, per_node=8)
        for mode in ("none", "selective", "full")
    ]
    assert [cost.memory["activations"] for cost in kept] == sorted(
        (c.memory["activations"] for c in kept), reverse=True
    )
    offloaded = estimate(replace(work, cpu_offload=True), Mesh(1, 8), CARD, per_node=8)
    assert state not in offloaded.memory
    whole = "whole gradients between micro-batches"
    each_time = estimate(replace(work, reduced_each_time=True), Mesh(1, 8), CARD, per_node=8)
    assert whole in sharded.memory
    assert whole not in each_time.memory
    assert each_time.traffic["shard"] > sharded.traffic["shard"]
    low, high = sharded.mfu
    assert 0 < low < high < 0.6


def test_a_pipeline_shares_the_layers_and_waits_for_its_ends() -> None:
    work = dense(24)
    whole, halves = (estimate(work, mesh, CARD, per_node=8) for mesh in (Mesh(), Mesh(pipeline=2, stages=2)))
    state = "weights, gradients, AdamW"
    assert whole.idle == 0
    assert 0.4 < halves.memory[state] / whole.memory[state] < 0.6
    assert set(halves.traffic) == {"pipeline"}
    assert halves.traffic["pipeline"] == 2 * 64 * 2048 * 2048 * 2, "rows of half precision, there and back"
    one, gpipe, interleaved = (
        estimate(work, mesh, CARD, per_node=8)
        for mesh in (
            Mesh(pipeline=4, stages=4),
            Mesh(pipeline=4, schedule="GPipe", stages=4),
            Mesh(pipeline=4, schedule="Interleaved1F1B", stages=8),
        )
    )
    assert one.idle == pytest.approx(3 / 67)
    assert interleaved.idle == pytest.approx(3 / 131)
    assert gpipe.memory["activations"] > interleaved.memory["activations"] > one.memory["activations"]
    assert interleaved.traffic["pipeline"] == 2 * one.traffic["pipeline"]
    few = estimate(replace(work, global_batch=2), Mesh(pipeline=4, stages=4), CARD, per_node=8)
    assert few.idle == pytest.approx(3 / 5)
    tied = replace(work, architecture=replace(work.architecture, tied=True))
    assert estimate(tied, Mesh(pipeline=2, stages=2), CARD, per_node=8).memory[state] == halves.memory[state]


def test_auto_takes_the_plainest_mesh_that_is_about_as_fast() -> None:
    parts = Divisible.of(LLAMA)
    small = choose(dense(4), parts, 16, GPUS["h100"], per_node=8)
    assert small.mesh.tensor == 1
    assert small.fits(GPUS["h100"])
    with pytest.raises(ConfigError, match="doesn't fit on 1 GPUs"):
        choose(dense(200), parts, 1, CARD, per_node=1)
    large = Workload(Architecture.of(DEEPSEEK_V3), 4096, 15_360, 1, checkpointing="full")
    chosen = choose(large, Divisible.of(DEEPSEEK_V3), 2048, GPUS["h100"], per_node=8)
    assert chosen.mesh.ranks == 2048
    assert chosen.mesh.expert > 1
    assert chosen.fits(GPUS["h100"])


@pytest.mark.parametrize(
    ("product", "name"),
    [
        ("NVIDIA-A100-SXM4-40GB", "a100-40"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA-H100-80GB-HBM3", "h100"),
        ("T4", None),
    ],
)
def test_gpus_are_known_by_their_label(product: str, name: str | None) -> None:
    assert of_product(product) == name


def test_dsj_plan_says_it_in_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = {
        "apiVersion": "training.deepseekjob.dev/v1alpha1",
        "kind": "DeepSeekJob",
        "metadata": {"name": "planned"},
        "spec": {
            "workers": {
                "image": "x/y:1",
                "replicas": 2,
                "procPerNode": 8,
                "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
            },
            "trainer": {
                "model": {"preset": "small"},
                "training": {"steps": 1, "precision": "bf16"},
                "parallelism": {"shard": 8},
            },
            "data": {"corpus": "gcide"},
        },
    }

    def told(parallelism: dict[str, object]) -> tuple[int, str]:
        job["spec"]["trainer"]["parallelism"] = parallelism  # type: ignore[index]
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
        with pytest.raises(SystemExit) as ended:
            main(["plan", str(tmp_path / "job.yaml")])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out + err

    status, said = told({"shard": 8})
    assert status == 0
    assert "ranks: 16 on h100" in said
    assert "replicate 2: 2 groups of ranks" in said
    assert "memory of a rank:" in said
    assert "fits" in said
    assert "model FLOPs utilization:" in said
    status, said = told({"auto": True})
    assert status == 0
    assert "parallelism.auto takes shard:" in said or "parallelism.auto takes replicate:" in said
    status, said = told({"pipeline": 2, "shard": 4})
    assert status == 0
    assert "pipeline 2: 2 groups of ranks have some of the layers" in said
    assert "fills and runs empty:" in said
    status, said = told({"expert": 5})
    assert status == 2
    assert "expert: 5 does not divide shard 16" in said
