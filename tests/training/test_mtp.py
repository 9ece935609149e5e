"""Multi-token prediction: against the module of transformers, and what its loss is about."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from deepseek_trainer.checkpoint.export import export
from deepseek_trainer.config import ExpertsSpec, TrainerSpec
from deepseek_trainer.data.samples import IGNORED, MicroBatch
from deepseek_trainer.model import mtp, origin
from deepseek_trainer.model.balance import Routing
from deepseek_trainer.model.mtp import SHARED, MultiTokenModel, labels
from deepseek_trainer.optim.loss import summed_loss, summed_objective
from safetensors.torch import load_file
from support.procs import start_training
from torch.nn.functional import cross_entropy
from transformers.modeling_layers import MtpModel

pytestmark = [pytest.mark.training, pytest.mark.timeout(400)]

VOCABULARY = 64
DEPTH = 2


def a_spec(depth: int = DEPTH) -> TrainerSpec:
    model = {"preset": "tiny", "hiddenSize": 32, "numLayers": 2, "numExperts": 4, "multiToken": {"depth": depth}}
    return TrainerSpec.model_validate({"model": model, "training": {"steps": 1, "sequenceLength": 16}})


@pytest.fixture(scope="module")
def model() -> Any:
    return origin.of(a_spec(), vocab_size=VOCABULARY).model()


def two_documents() -> MicroBatch:
    """A row of one document, and one of two, which begins anew at position 9."""
    tokens = torch.randint(1, VOCABULARY, (2, 17), generator=torch.Generator().manual_seed(2))
    positions = torch.arange(16).repeat(2, 1)
    positions[1, 9:] = torch.arange(7)
    wanted = tokens[:, 1:].clone()
    wanted[1, 8] = IGNORED
    return MicroBatch(tokens[:, :-1], wanted, positions)


def test_it_computes_what_the_module_of_transformers_does(model: Any) -> None:
    batch = two_documents()
    assert batch.positions is not None
    assert isinstance(model, MultiTokenModel)
    plain = origin.of(a_spec(depth=0), vocab_size=VOCABULARY).model()
    theirs = MtpModel(plain, DEPTH)  # which draws what it shares with the model anew
    plain.load_state_dict(model.state_dict(), strict=False)
    renamed = {
        f"layers.{k}.{_theirs(name)}": tensor
        for k in range(DEPTH)
        for name, tensor in model.model.layers[2 + k].state_dict().items()
    }
    left = theirs.load_state_dict(renamed, strict=False)
    assert not left.unexpected_keys
    assert {name.partition(".")[0] for name in left.missing_keys} <= {"embed_tokens", "shared_head", "rotary_emb"}

    with torch.no_grad():
        ours = model.train()(input_ids=batch.inputs[:1], position_ids=batch.positions[:1])
        hidden = model.model(input_ids=batch.inputs[:1]).last_hidden_state
        for k in range(DEPTH):
            ids = mtp.ahead(batch.inputs[:1], k + 1, 0)
            hidden = theirs.forward_layer(k, hidden, torch.arange(16)[None], None, input_ids=ids)
            wanted = theirs._project_to_logits(hidden)
            assert torch.allclose(ours.further[k], wanted, atol=1e-5), k


def _theirs(name: str) -> str:
    own = ("enorm", "hnorm", "eh_proj")
    if name.startswith(own):
        return name
    return "post_norm.weight" if name == "shared_head.norm.weight" else f"mtp_block.{name}"


def test_no_document_predicts_into_another_nor_sees_one(model: Any) -> None:
    batch = two_documents()
    assert batch.positions is not None
    second = labels(batch, 2)
    assert second[0].tolist() == [*batch.labels[0, 2:].tolist(), IGNORED, IGNORED]
    assert second[1, :9].tolist() == [*batch.labels[1, 2:8].tolist(), IGNORED, IGNORED, IGNORED]
    assert second[1, 9:].tolist() == [*batch.labels[1, 11:].tolist(), IGNORED, IGNORED]

    def losses(inputs: torch.Tensor, wanted: torch.Tensor, positions: torch.Tensor | None) -> list[float]:
        part = MicroBatch(inputs, wanted, positions)
        with torch.no_grad():
            out = model.train()(input_ids=inputs, position_ids=positions)
        return [
            float(cross_entropy(logits.flatten(0, 1), labels(part, k).flatten(), reduction="sum", ignore_index=IGNORED))
            for k, logits in enumerate(out.further, start=1)
        ]

    together = losses(batch.inputs[1:], batch.labels[1:], batch.positions[1:])
    first = losses(batch.inputs[1:, :9], batch.labels[1:, :9], None)
    rest = losses(batch.inputs[1:, 9:], batch.labels[1:, 9:], None)
    assert together == pytest.approx([a + b for a, b in zip(first, rest, strict=True)], rel=1e-4)


def test_the_reported_loss_is_of_the_next_token_and_the_others_have_their_weight(model: Any) -> None:
    batch = two_documents()
    routing = Routing(model, model.config, ExpertsSpec(sequence_loss=0), torch.device("cpu"))
    with torch.no_grad():
        loss, whole = summed_objective(model.train(), batch, routing=routing, further_weight=0.3)
        out = model(input_ids=batch.inputs, position_ids=batch.positions)
        wanted = [batch.labels, labels(batch, 1), labels(batch, 2)]
        sums = [
            float(cross_entropy(logits.flatten(0, 1), of.flatten(), reduction="sum", ignore_index=IGNORED))
            for logits, of in zip((out.logits, *out.further), wanted, strict=True)
        ]
        alone = summed_loss(model.eval(), batch)
    assert float(loss) == pytest.approx(sums[0], rel=1e-5) == float(alone)
    assert float(whole) == pytest.approx(sums[0] + 0.3 * (sums[1] + sums[2]) / 2, rel=1e-5)


def test_outside_of_training_it_is_the_model_without_modules(model: Any) -> None:
    plain = origin.of(a_spec(depth=0), vocab_size=VOCABULARY).model()
    batch = two_documents()
    with torch.no_grad():
        with_modules = model.eval()(input_ids=batch.inputs, position_ids=batch.positions).logits
        assert torch.equal(plain.eval()(input_ids=batch.inputs, position_ids=batch.positions).logits, with_modules)
        assert torch.equal(model.train()(input_ids=batch.inputs, position_ids=batch.positions).logits, with_modules)


def test_it_trains_is_exported_under_the_published_names_and_read_again(
    config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    chosen = config(steps=2)
    chosen["trainer"]["model"] |= {"multiToken": {"depth": 1}}
    ended = start_training(chosen, world_size=2, folder=tmp_path / "run").wait()[0]
    assert ended.exit_code == 0, ended.output

    export(tmp_path / "checkpoints", tmp_path / "hf")

    found = load_file(tmp_path / "hf" / "model.safetensors")
    said = json.loads((tmp_path / "hf" / "config.json").read_bytes())
    assert (said["num_nextn_predict_layers"], said["num_hidden_layers"]) == (1, 2)
    own = {name.removeprefix("model.layers.2.") for name in found if name.startswith("model.layers.2.")}
    expected = {"enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight", "input_layernorm.weight"}
    assert expected | {"mlp.experts.3.gate_proj.weight", "mlp.gate.e_score_correction_bias"} <= own
    for name, of in SHARED.items():
        assert torch.equal(found[f"model.layers.2.{name}"], found[of])
    weights = {"task": "finetune", "initialWeights": {"path": str(tmp_path / "hf")}}
    rest = {"tokenizer": {"kind": "initialWeights"}, "training": {"steps": 1, "sequenceLength": 32}}
    again = TrainerSpec.model_validate({**weights, **rest, "model": {"multiToken": {"depth": 1}}})
    read = origin.of(again, vocab_size=1024).model().state_dict()
    assert torch.equal(read["model.layers.2.eh_proj.weight"], found["model.layers.2.eh_proj.weight"])
    experts = read["model.layers.2.mlp.experts.down_proj"]
    assert torch.equal(experts[3], found["model.layers.2.mlp.experts.3.down_proj.weight"])
