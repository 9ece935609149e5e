"""Task finetune: a model that was trained here, saved as Hugging Face does, is the one that training goes on with."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from deepseek_trainer.config import RunConfig, TrainerSpec
from deepseek_trainer.data import samples, store
from deepseek_trainer.data.ledger import Ledger
from deepseek_trainer.data.prepare import prepare
from deepseek_trainer.model import origin
from deepseek_trainer.optim.loss import summed_loss
from deepseek_trainer.tasks import TASKS
from safetensors.torch import load_file, save_file
from support.procs import Ended, start_training
from support.runs import losses, report, run_config
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3ForCausalLM

pytestmark = [pytest.mark.training, pytest.mark.timeout(400)]

MakeConfig = Callable[..., dict[str, Any]]
_EVALUATED = re.compile(r"evaluated step=(\d+) validation_loss=(\S+)")


@pytest.fixture(scope="module")
def source(store_folder: Path, data_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten steps of pretraining on one rank; `hf` is the model as save_pretrained writes it, with its tokenizer."""
    folder = tmp_path_factory.mktemp("source")
    config = run_config(checkpoints=folder / "checkpoints", data_cache=data_cache, every_steps=10, steps=10)
    ended = start_training(config, world_size=1, folder=folder).wait()[0]
    assert ended.exit_code == 0, ended.output

    dcp_to_torch_save(folder / "checkpoints" / "step-00000010", os.fspath(folder / "whole.pt"))
    model = origin.of(RunConfig.model_validate(config).trainer, vocab_size=1024).model()
    model.load_state_dict(torch.load(folder / "whole.pt", weights_only=False)["model"])
    model.save_pretrained(folder / "hf")
    shutil.copy(store_folder / "tokenizer.json", folder / "hf")
    return folder


@pytest.fixture
def finetune(source: Path, config: MakeConfig) -> Callable[..., dict[str, Any]]:
    """Makes a run config that starts from the source's weights, or from a copy of them."""

    def make(weights: Path = source / "hf", **training: Any) -> dict[str, Any]:
        chosen = config(**{"steps": 8, "seed": 5} | training)
        trainer = chosen["trainer"]
        del trainer["model"]
        trainer |= {
            "task": "finetune",
            "initialWeights": {"path": str(weights)},
            "tokenizer": {"kind": "initialWeights"},
        }
        return chosen

    return make


def evaluations(output: str) -> dict[int, float]:
    return {int(step): float(loss) for step, loss in _EVALUATED.findall(output)}


def run(config: dict[str, Any], folder: Path, *, world_size: int = 1) -> list[Ended]:
    ended = start_training(config, world_size=world_size, folder=folder).wait()
    assert all(rank.exit_code == 0 for rank in ended), ended[0].output
    return ended


def expected_first_loss(config: dict[str, Any], weights: Path) -> float:
    """The loss that transformers' own model has on the run's first batch."""
    parsed = RunConfig.model_validate(config)
    opened = store.open_store(prepare(parsed, os.environ))
    data = samples.of(parsed, opened)
    ledger = Ledger.of(parsed, fingerprint=opened.info.fingerprint, samples=data.training, layout=data.layout)
    model = DeepseekV3ForCausalLM.from_pretrained(weights, dtype=torch.float32)
    batch = ledger.batch()
    with torch.no_grad():
        return float(summed_loss(model, data.collate(batch.samples))) / int(data.targets(batch.samples).sum())


def test_it_begins_as_the_model_it_starts_from_on_any_number_of_ranks(
    source: Path, finetune: MakeConfig, tmp_path: Path
) -> None:
    chosen = finetune()
    del chosen["checkpoint"]
    alone = run(chosen, tmp_path / "one")[0].output
    on_two = run(chosen, tmp_path / "two", world_size=2)[0].output

    curve = losses(alone)
    assert curve[1] == pytest.approx(expected_first_loss(chosen, source / "hf"), rel=1e-5)
    assert losses(on_two) == pytest.approx(curve, rel=1e-5)
    before = report(source)["validationLoss"]
    assert evaluations(alone)[0] == pytest.approx(before, rel=1e-5), "it is the model that was saved"
    assert evaluations(on_two)[0] == pytest.approx(before, rel=1e-5)
    assert evaluations(alone)[8] < before, "and it learns on"
    assert curve[1] < losses((source / "rank-0.log").read_text())[1] - 0.3, "random weights would begin higher"


def test_after_a_loss_it_goes_on_from_the_checkpoint_and_not_from_the_weights(
    source: Path, finetune: MakeConfig, tmp_path: Path
) -> None:
    weights = tmp_path / "weights"
    shutil.copytree(source / "hf", weights)
    undisturbed = run(finetune(weights), tmp_path / "undisturbed", world_size=2)[0].output
    checkpoints = tmp_path / "checkpoints"
    shutil.rmtree(checkpoints / "step-00000008")
    (weights / "model.safetensors").unlink()  # a resume needs the architecture and the tokenizer only

    resumed = run(finetune(weights), tmp_path / "resumed", world_size=2)[0].output

    assert report(tmp_path / "resumed")["resumedStep"] == 4
    assert losses(resumed) == {step: loss for step, loss in losses(undisturbed).items() if step > 4}
    for name in ("chain", "loss", "validationLoss"):
        assert report(tmp_path / "resumed")[name] == report(tmp_path / "undisturbed")[name], name
    assert 0 not in evaluations(resumed)


Spoil = Callable[[Path], object]


def _json(name: str, **changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])


def _drop_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _reshape_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"lm_head.weight": torch.zeros(5, 64)}, folder / "model.safetensors", metadata={"format": "pt"})


def _index_of_a_missing_file(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("spoil", "exit_code", "says"),
    [
        pytest.param(shutil.rmtree, 78, "mount the volume with the model, or correct the path", id="no folder"),
        pytest.param(lambda f: (f / "config.json").unlink(), 78, "config.json: No such file", id="no config"),
        pytest.param(lambda f: (f / "config.json").write_text("{"), 78, "config.json is not JSON", id="torn config"),
        pytest.param(_json("config.json", model_type="vit"), 78, "of type vit", id="no language model"),
        pytest.param(_json("config.json", quantization_config={"bits": 8}), 78, "are quantized", id="quantized"),
        pytest.param(_json("config.json", vocab_size=512), 78, "it has 1024 ids, the model", id="vocabulary too large"),
        pytest.param(_json("config.json", max_position_embeddings=16), 78, "lower it", id="sequences too long"),
        pytest.param(
            lambda f: (f / "tokenizer.json").unlink(), 78, "put the model's tokenizer there", id="no tokenizer"
        ),
        pytest.param(lambda f: (f / "tokenizer.json").write_text("{}"), 78, "can't be used", id="no real tokenizer"),
        pytest.param(
            lambda f: (f / "model.safetensors").unlink(), 78, "save the model as safetensors", id="no weights"
        ),
        pytest.param(_index_of_a_missing_file, 78, "lacks model-00001-of-00002.safetensors", id="a shard is missing"),
        pytest.param(_truncate, 65, "can't be read", id="truncated weights"),
        pytest.param(_drop_tensor, 65, "lack 1 tensors, first model.norm.weight", id="a tensor is missing"),
        pytest.param(_reshape_tensor, 65, "can't be read", id="a tensor of another shape"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_with_its_path(
    source: Path, finetune: MakeConfig, tmp_path: Path, spoil: Spoil, exit_code: int, says: str
) -> None:
    weights = tmp_path / "weights"
    shutil.copytree(source / "hf", weights)
    spoil(weights)

    ended = start_training(finetune(weights), world_size=1, folder=tmp_path / "run").wait()[0]

    assert ended.exit_code == exit_code, ended.output
    assert says in ended.output
    assert str(weights) in ended.output
    assert "Traceback" not in ended.output


def test_every_task_has_its_function_and_its_model() -> None:
    tasks = set(get_args(TrainerSpec.model_fields["task"].annotation))
    assert set(TASKS) == tasks == set(origin.ORIGINS)
