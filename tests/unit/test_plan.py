"""What `dsj plan` says: memory, traffic and the choice of a mesh, by formulas; and the rule of thumb that they agree with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from deepseek_client.cli import main
from deepseek_trainer.config import ConfigError, RunConfig
from deepseek_trainer.config.mesh import Mesh
from deepseek_trainer.config.parallelism import Divisible, ParallelismSpec
from deepseek_trainer.plan.architecture import Architecture
from deepseek_trainer.plan.choose import Choice, choose
from deepseek_trainer.plan.estimate import estimate
from deepseek_trainer.plan.hardware import GPUS, of_product
from deepseek_trainer.plan.job import refusal
from deepseek_trainer.plan.memory import FRAGMENTS
from deepseek_trainer.plan.workload import Part, Workload
from support.runs import run_config

CARD = GPUS["a100-40"]
LLAMA = SimpleNamespace(
    model_type="llama",
    vocab_size=32_000,
    hidden_size=2048,
    num_attention_heads=16,
    num_hidden_layers=24,
    intermediate_size=5632,
)
LLAMA_8B = SimpleNamespace(
    model_type="llama",
    vocab_size=128_256,
    hidden_size=4096,
    num_attention_heads=32,
    num_key_value_heads=8,
    num_hidden_layers=32,
    intermediate_size=14_336,
)
LLAMA_70B = SimpleNamespace(
    **{
        **vars(LLAMA_8B),
        "hidden_size": 8192,
        "num_attention_heads": 64,
        "num_hidden_layers": 80,
        "intermediate_size": 28_672,
    }
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
WITH_MODULES = SimpleNamespace(**vars(DEEPSEEK_V3), num_mtp_layers=2)


def dense(layers: int) -> Workload:
    model = Architecture.of(SimpleNamespace(**{**vars(LLAMA), "num_hidden_layers": layers}))
    return Workload(model, length=2048, global_batch=64, micro_batch=1, checkpointing="full")


def test_the_published_sizes() -> None:
    model = Architecture.of(DEEPSEEK_V3)
    assert model.parameters == pytest.approx(671e9, rel=0.001)
    assert model.active == pytest.approx(37e9, rel=0.03)


def test_modules_for_further_tokens_count() -> None:
    """Each is a layer more, with the logits of another token; where the last stage isn't the first, it has the embedding too."""
    plain, further = (Workload(Architecture.of(model), 2048, 64, 1) for model in (DEEPSEEK_V3, WITH_MODULES))
    layer = plain.architecture.attention.whole + plain.architecture.attention.shared + plain.architecture.routed
    more = further.architecture.parameters - plain.architecture.parameters
    assert layer < more / 2 < 1.05 * layer
    one, other = (estimate(work, Mesh(shard=64), CARD, per_node=8).memory for work in (plain, further))
    assert other["logits"] == 3 * one["logits"]
    assert other["activations"] == pytest.approx(one["activations"] * 63 / 61, rel=0.02)
    first, last = (Part.of(further.architecture, Mesh(pipeline=2, stages=2), place, 8) for place in (0, 1))
    assert (first.embeddings, last.embeddings) == (1, 2)
    assert sum(count for count, *_ in last.kinds) == sum(count for count, *_ in first.kinds) + 1, "61 layers, and 2"


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
    bent = estimate(work, Mesh(pipeline=4, schedule="ZBVZeroBubble", stages=8), CARD, per_node=8)
    assert bent.idle == pytest.approx(1 / 129)
    assert bent.memory[state] > one.memory[state], "the embedding and the output layer are of one rank"
    few = estimate(replace(work, global_batch=2), Mesh(pipeline=4, stages=4), CARD, per_node=8)
    assert few.idle == pytest.approx(3 / 5)
    tied = replace(work, architecture=replace(work.architecture, tied=True))
    assert estimate(tied, Mesh(pipeline=2, stages=2), CARD, per_node=8).memory[state] == halves.memory[state]


def test_a_rank_of_a_pipeline_by_hand() -> None:
    """Four layers in two stages, each over two ranks: 32 micro-batches of one sequence go through."""
    layer = 2048 * 8192 + 3 * 2048 * 5632 + 2 * 2048  # attention, feed-forward, norms
    head = 32_000 * 2048
    cost = estimate(dense(4), Mesh(shard=2, pipeline=2, stages=2), CARD, per_node=4)
    last = 2 * layer + head + 2048
    inputs, within = 2 * 2048, 6 * 2048 + 7 * 2048 + 4 * 5632  # numbers of a token: two layers', and in one of them
    memory = {what: size / FRAGMENTS for what, size in cost.memory.items() if what != "reserved"}
    assert memory == pytest.approx(
        {
            "weights, gradients, AdamW": 16 * last / 2,
            "gathered weights": 2 * layer * 2 + layer * 4 + (head + 2048) * 2,
            "activations": 2048 * 2 * (1 * inputs + within),  # the last stage keeps one micro-batch
            "logits": 2048 * 32_000 * 6,
            "whole gradients between micro-batches": last * (4 + 2),
        }
    )
    assert cost.traffic == {"shard": (33 * 2 + 4) * last / 2, "pipeline": 32 * 2048 * 2048 * 2 * 2}
    assert cost.micro_batches == 32
    assert cost.idle == pytest.approx(1 / 33)
    of_layer, of_head = 6 * layer + 3 * 16 * 256 * 2048, 6 * head
    slowest = (2 * of_layer + of_head) / (4 * of_layer + of_head)
    # Of the best speed a quarter is recomputation; half of the ranks wait for those that have the head, and all for the ends.
    assert cost.mfu[1] == pytest.approx(0.55 * 3 / 4 * (0.5 / slowest) * 32 / 33, rel=1e-3)

    first = estimate(
        replace(dense(4), architecture=replace(dense(4).architecture, vocabulary=1)), cost.mesh, CARD, per_node=4
    )
    assert first.memory["activations"] / FRAGMENTS == 2048 * 2 * (2 * inputs + within), "the first keeps two"


def test_the_ring_moves_its_scores_and_idle_ranks_make_no_step_shorter() -> None:
    work = replace(dense(24), global_batch=1)
    ring = estimate(work, Mesh(context=8), CARD, per_node=8)
    scores = 24 * 16 * 2048**2 / 2 / 8
    assert ring.ring == pytest.approx(scores * (2 * 64 + 86) / (0.8 * 1.56e12))
    assert ring.seconds[0] > ring.ring
    few, enough = (estimate(replace(work, global_batch=batch), Mesh(8, 1), CARD, per_node=8) for batch in (4, 8))
    assert few.seconds == enough.seconds, "each of four ranks has a sequence, and four have none"
    assert few.mfu == pytest.approx([share / 2 for share in enough.mfu])


def taken(model: Any, ranks: int, gpu: str, length: int, batch: int, **more: Any) -> Choice:
    work = Workload(Architecture.of(model), length, batch, 1, checkpointing="full")
    refuse = more.pop("refuse", Divisible.of(model).require)
    return choose(work, refuse, ranks, GPUS[gpu], per_node=8)


def test_auto_takes_a_pipeline_where_nothing_else_fits_or_the_network_is_slow() -> None:
    large = taken(LLAMA_70B, 64, "h100", 8192, 256)
    assert large.cost.mesh.pipeline > 1
    assert large.cost.fits(GPUS["h100"])
    assert large.cost.idle == pytest.approx(
        (large.cost.mesh.pipeline - 1) / (large.cost.micro_batches + large.cost.mesh.pipeline - 1)
    )
    assert not large.without["pipeline"].fits(GPUS["h100"])

    slow = taken(LLAMA_8B, 16, "l40s", 4096, 128)
    assert str(slow.cost.mesh) == "pipeline:2,shard:8", (
        "weights stay within the node, activations travel between the two"
    )
    assert slow.without["pipeline"].fits(GPUS["l40s"])
    assert slow.without["pipeline"].typical > 1.3 * slow.cost.typical
    assert taken(LLAMA_8B, 16, "h100", 8192, 16).cost.mesh.pipeline == 1, (
        "two micro-batches would leave it empty too long"
    )


def test_auto_divides_sequences_where_one_does_not_fit() -> None:
    long = taken(LLAMA_8B, 16, "h100", 131_072, 16)
    assert long.cost.mesh.context > 1
    assert not long.without["context"].fits(GPUS["h100"])
    assert taken(LLAMA_8B, 16, "h100", 8192, 16).cost.mesh.context == 1


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({}, {}),
        ({"training": {"precision": "fp8"}}, {"tensor"}),
        ({"training": {"compile": "layers"}}, {"tensor", "context"}),
        ({"model": {"attention": "Flash"}}, {"context"}),
        ({"data": {"mode": "Dynamic"}}, {"tensor", "context", "pipeline"}),
    ],
)
def test_auto_takes_only_what_the_config_would(changes: dict[str, Any], refused: set[str], tmp_path: Path) -> None:
    wire = run_config(checkpoints=tmp_path, data_cache=tmp_path)
    wire["data"] |= changes.pop("data", {})
    for section, fields in changes.items():
        wire["trainer"][section] = {**wire["trainer"].get(section, {}), **fields}
    config = RunConfig.model_validate(wire)
    refuse = refusal(config, Divisible.of(LLAMA_70B))

    for axis in ("pipeline", "tensor", "context", "expert"):
        mesh = ParallelismSpec.model_validate({axis: 2}).mesh(4)
        assert ParallelismSpec.of(mesh).mesh(4) == mesh
        if axis in refused:
            with pytest.raises(ConfigError, match=axis):
                refuse(mesh)
        elif axis != "expert":
            refuse(mesh)
    if "pipeline" in refused:
        with pytest.raises(ConfigError, match=r"parallelism.auto: the model doesn't fit .* even shard"):
            taken(LLAMA_70B, 64, "h100", 8192, 256, refuse=refuse)


def test_auto_takes_the_plainest_mesh_that_is_about_as_fast() -> None:
    refuse = Divisible.of(LLAMA).require
    small = choose(dense(4), refuse, 16, GPUS["h100"], per_node=8).cost
    assert (small.mesh.tensor, small.mesh.pipeline) == (1, 1)
    assert small.fits(GPUS["h100"])
    with pytest.raises(ConfigError, match="doesn't fit on 1 GPUs"):
        choose(dense(200), refuse, 1, CARD, per_node=1)
    chosen = taken(DEEPSEEK_V3, 2048, "h100", 4096, 15_360).cost
    assert chosen.mesh.ranks == 2048
    assert chosen.mesh.expert == 8, "rows stay within a node on their way to the experts"
    assert chosen.mesh.pipeline == 16, "as DeepSeek trained it"
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

    job["spec"]["workers"]["nodeSelector"] = {"nvidia.com/gpu.product": "NVIDIA-L40S"}  # type: ignore[index]
    job["spec"]["trainer"] = {  # type: ignore[index]
        "model": {"preset": "r1-distill-llama-8b"},
        "tokenizer": {"kind": "deepseek"},
        "training": {
            "steps": 1,
            "precision": "bf16",
            "sequenceLength": 4096,
            "globalBatchSize": 128,
            "microBatchSize": 1,
            "activationCheckpointing": "full",
        },
    }
    status, said = told({"auto": True})
    assert status == 0
    assert "parallelism.auto takes pipeline:2,shard:8\n  with it a step takes" in said
    assert "  without pipeline, shard:8,tensor:2: " in said
    assert "6% of the time, with 16 micro-batches a step in 2 groups" in said
