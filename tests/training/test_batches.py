"""Documents in rows of several, or of different lengths: what is computed is what each document by itself gives."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deepseek_trainer.config import RunConfig, TrainerSpec
from deepseek_trainer.data import samples
from deepseek_trainer.data.samples import IGNORED, MicroBatch, Samples
from deepseek_trainer.model import origin
from deepseek_trainer.optim.loss import summed_loss
from support.procs import start_training
from support.runs import losses, report
from support.stores import store_of

pytestmark = [pytest.mark.training, pytest.mark.timeout(400)]

MakeConfig = Callable[..., dict[str, Any]]

LENGTH = 32
DOCUMENTS = (9, 3, 40, 2, 17, 33, 1, 5, 5, 12, 90, 8, 21, 6, 2, 30, 14, 3, 3, 11, 26, 19, 4, 4, 7)
TOKENS = sum(DOCUMENTS)
MODES: dict[str, dict[str, Any]] = {
    "stream": {"mode": "Stream"},
    "masked": {"mode": "Stream", "documentMask": True},
    "packed": {"mode": "Packed"},
    "bucketed": {"mode": "Bucketed", "tokensPerMicroBatch": 64},
}


def cut(folder: Path, batching: dict[str, Any], **store: Any) -> Samples:
    config = {
        "job": "j",
        "trainer": {"training": {"steps": 1, "sequenceLength": LENGTH, "microBatchSize": 3}},
        "data": {"corpus": "gcide", "batching": batching},
        "dataCache": "/nowhere",
    }
    return samples.of(RunConfig.model_validate(config), store_of(DOCUMENTS, folder=folder, **store))


def tiny() -> Any:
    spec = {
        "model": {"hiddenSize": 32, "numLayers": 2, "numExperts": 4},
        "training": {"steps": 1, "seed": 1, "sequenceLength": LENGTH},
    }
    return origin.of(TrainerSpec.model_validate(spec), vocab_size=TOKENS + 1).model()


def gradients(model: Any, parts: list[MicroBatch], targets: int) -> tuple[float, dict[str, torch.Tensor]]:
    """The mean loss over all parts, and its gradient."""
    model.zero_grad()
    total = 0.0
    for part in parts:
        loss = summed_loss(model, part) / targets
        loss.backward()
        total += float(loss.detach())
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.allclose(value, right[name], rtol=1e-5, atol=1e-6), f"{name}: {(value - right[name]).abs().max()}"


def one_by_one(whole: MicroBatch) -> tuple[list[MicroBatch], list[tuple[int, int, int]]]:
    """Each piece as a micro-batch of its own, and where it was: row, begin, end."""
    assert whole.positions is not None
    parts, places = [], []
    for row in range(len(whole.inputs)):
        starts = torch.where(whole.positions[row] == 0)[0].tolist()
        for begin, end in zip(starts, [*starts[1:], whole.inputs.shape[1]], strict=True):
            inputs, labels = whole.inputs[row, begin:end], whole.labels[row, begin:end]
            if (labels != IGNORED).any():
                parts.append(MicroBatch(inputs[None], labels[None], None))
                places.append((row, begin, end))
    return parts, places


@pytest.mark.parametrize("mode", ["packed", "masked"])
def test_packed_documents_are_computed_as_if_each_were_alone(tmp_path: Path, mode: str) -> None:
    data, model = cut(tmp_path, MODES[mode]), tiny()
    whole = data.collate(np.arange(data.training))
    alone, places = one_by_one(whole)
    assert len(alone) > 1.3 * len(whole.inputs), "rows have several documents"
    targets = int(data.targets(np.arange(data.training)).sum())

    with torch.no_grad():
        logits = model(input_ids=whole.inputs, position_ids=whole.positions, use_cache=False).logits
        for part, (row, begin, end) in zip(alone, places, strict=True):
            by_itself = model(input_ids=part.inputs, use_cache=False).logits[0]
            torch.testing.assert_close(logits[row, begin:end], by_itself, rtol=1e-5, atol=1e-5)
    together, separate = gradients(model, [whole], targets), gradients(model, alone, targets)
    assert together[0] == pytest.approx(separate[0], rel=1e-5)
    assert_close(together[1], separate[1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("loss_on", [(), tuple(range(5, TOKENS, 3))], ids=["all", "some"])
def test_any_number_of_ranks_computes_the_gradient_of_the_whole_batch(
    tmp_path: Path, mode: str, loss_on: tuple[int, ...]
) -> None:
    data, model = cut(tmp_path, MODES[mode], loss_on=loss_on), tiny()
    batch = np.random.default_rng(5).permutation(data.training)[:9]
    targets = int(data.targets(batch).sum())
    expected = gradients(model, [data.collate(batch)], targets)

    for world_size in range(1, 6):  # 9 samples in micro-batches of 3: some ranks run out
        dealt = [data.micro_batches(batch, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert len({len(mine) for mine in dealt}) == 1
        found = gradients(model, [data.collate(batch[places]) for mine in dealt for places in mine], targets)
        assert found[0] == pytest.approx(expected[0], rel=1e-5)
        assert_close(found[1], expected[1])


@pytest.mark.parametrize("mode", ["packed", "bucketed"])
def test_a_kill_with_data_made_ahead_loses_and_repeats_nothing(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])  # where modules of tests are found

    def chosen(where: str) -> dict[str, Any]:
        made = config(steps=12)
        made["data"]["batching"] = MODES[mode]
        made["checkpoint"] |= {"directory": str(tmp_path / where), "mode": "Sync"}
        return made

    undisturbed = start_training(chosen("whole"), world_size=2, folder=tmp_path / "undisturbed")
    killed = start_training(
        chosen("killed"),
        world_size=2,
        folder=tmp_path / "run",
        environ={"KILLED_AT_STEP": "6"},
        module="support.killed_at_step",
    ).wait()
    again = start_training(chosen("killed"), world_size=2, folder=tmp_path / "again").wait()
    whole = undisturbed.wait()

    assert -signal.SIGKILL in [rank.exit_code for rank in killed], killed[0].output
    assert [rank.exit_code for rank in (*again, *whole)] == [0] * 4, again[0].output + whole[0].output
    said, before = report(tmp_path / "again"), report(tmp_path / "undisturbed")
    assert said["resumedStep"] == 4
    for field in ("chain", "loss", "validationLoss", "position"):
        assert said[field] == before[field], field
    curve = losses(whole[0].output)
    assert losses(again[0].output) == {step: loss for step, loss in curve.items() if step > said["resumedStep"]}
    assert 0 <= said["dataWait"] <= 1, "a share"
