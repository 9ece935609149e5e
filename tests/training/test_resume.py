"""Going back to a checkpoint, with the same ranks and with others; and what is refused."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from deepseek_trainer.checkpoint import layout, load
from support.eventually import eventually
from support.procs import start_training
from support.runs import losses, report, resumes, run_config
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

pytestmark = [pytest.mark.training, pytest.mark.timeout(400)]

MakeConfig = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def undisturbed(store_folder: Path, data_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve steps on two ranks in one go; checkpoints at 4, 8 and 12, the log and the report beside them."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = run_config(checkpoints=folder / "checkpoints", data_cache=data_cache, steps=12)
    ended = start_training(config, world_size=2, folder=folder).wait()
    assert [rank.exit_code for rank in ended] == [0, 0], ended[0].output
    return folder


def test_a_resume_is_bit_for_bit_the_undisturbed_run(undisturbed: Path, config: MakeConfig, tmp_path: Path) -> None:
    checkpoints = _copy(undisturbed / "checkpoints", tmp_path / "checkpoints", steps=[4])

    ended = start_training(config(steps=12), world_size=2, folder=tmp_path / "run").wait()

    assert [rank.exit_code for rank in ended] == [0, 0], ended[0].output
    said, before = report(tmp_path / "run"), report(undisturbed)
    assert said["resumedStep"] == 4
    assert said["resumedFrom"] == str(checkpoints / "step-00000004")
    assert resumes(checkpoints)[-1]["step"] == 4
    for field in ("chain", "loss", "validationLoss", "position"):
        assert said[field] == before[field], field
    curve = losses((undisturbed / "rank-0.log").read_text())
    assert losses(ended[0].output) == {step: loss for step, loss in curve.items() if step > 4}
    _assert_same(
        _tensors(checkpoints / "step-00000012", tmp_path / "resumed.pt"),
        _tensors(undisturbed / "checkpoints" / "step-00000012", tmp_path / "undisturbed.pt"),
    )


def test_other_numbers_of_ranks_go_on_with_the_same_batches(
    undisturbed: Path, config: MakeConfig, tmp_path: Path
) -> None:
    checkpoints = _copy(undisturbed / "checkpoints", tmp_path / "checkpoints", steps=[4])
    curve = losses((undisturbed / "rank-0.log").read_text())

    on_three = start_training(config(steps=12), world_size=3, folder=tmp_path / "three").wait()
    shutil.rmtree(checkpoints / "step-00000012")
    on_one = start_training(config(steps=12), world_size=1, folder=tmp_path / "one").wait()

    assert report(tmp_path / "three")["resumedStep"] == 4
    assert report(tmp_path / "one")["resumedStep"] == 8
    for name, ended, start in (("three", on_three, 4), ("one", on_one, 8)):
        assert all(rank.exit_code == 0 for rank in ended), ended[0].output
        assert losses(ended[0].output) == pytest.approx({s: x for s, x in curve.items() if s > start}, rel=1e-5)
        assert report(tmp_path / name)["chain"] == report(undisturbed)["chain"]


@pytest.mark.parametrize(
    ("change", "exit_code", "message"),
    [
        ({"seed": 1}, 65, "trainer.training.seed was 0, now 1"),
        ({"globalBatchSize": 7}, 65, "trainer.training.globalBatchSize was 6, now 7"),
        ({"sequenceLength": 48}, 65, "trainer.training.sequenceLength, data.batching) was stream:32, now stream:48"),
    ],
)
def test_other_data_than_the_checkpoint_was_trained_on_is_refused(
    undisturbed: Path, config: MakeConfig, tmp_path: Path, change: dict[str, int], exit_code: int, message: str
) -> None:
    _copy(undisturbed / "checkpoints", tmp_path / "checkpoints", steps=[12])

    ended = start_training(config(steps=20, **change), world_size=1, folder=tmp_path / "run").wait()[0]

    assert ended.exit_code == exit_code, ended.output
    assert message in ended.output
    assert "Traceback" not in ended.output


def test_a_change_that_is_allowed_begins_a_segment(undisturbed: Path, config: MakeConfig, tmp_path: Path) -> None:
    checkpoints = _copy(undisturbed / "checkpoints", tmp_path / "checkpoints", steps=[12])
    chosen = config(steps=16, seed=1, globalBatchSize=4)
    chosen["data"] = chosen["data"] | {"allowChange": True, "shuffle": {"blockSamples": 16}}

    ended = start_training(chosen, world_size=1, folder=tmp_path / "run").wait()[0]

    assert ended.exit_code == 0, ended.output
    assert "data.shuffle.blockSamples was 256, now 16; a new segment begins" in ended.output
    assert report(tmp_path / "run")["position"] == 4 * 4
    ledger = layout.read_manifest(checkpoints / "step-00000016").ledger
    (segment,) = ledger["segments"]
    assert (ledger["step"], ledger["from_step"], ledger["position"]) == (16, 12, 16)
    assert (segment["from_step"], segment["to_step"], segment["position"]) == (0, 12, 12 * 6)
    assert segment["chain"] == report(undisturbed)["chain"]


def test_another_model_than_the_checkpoint_s_is_refused(undisturbed: Path, config: MakeConfig, tmp_path: Path) -> None:
    _copy(undisturbed / "checkpoints", tmp_path / "checkpoints", steps=[12])
    chosen = config(steps=20)
    chosen["trainer"]["model"]["hiddenSize"] = 32

    ended = start_training(chosen, world_size=1, folder=tmp_path / "run").wait()[0]

    assert ended.exit_code == 78, ended.output
    assert "hidden_size was 64, now 32" in ended.output


def test_sigterm_to_one_rank_saves_all_and_loses_no_step(config: MakeConfig, tmp_path: Path) -> None:
    running = start_training(config(steps=100_000, every_steps=100_000), world_size=2, folder=tmp_path / "run")
    eventually(lambda: " step=2 " in running.output(0), deadline_s=100, describe=running.outputs, what="step 2")

    running.send(signal.SIGTERM, ranks=[1])
    ended = running.wait()

    assert [rank.exit_code for rank in ended] == [75, 75], running.outputs()
    last = max(losses(ended[0].output))
    assert report(tmp_path / "run")["checkpoint"]["step"] == last
    assert load.newest_whole(tmp_path / "checkpoints").manifest.step == last  # type: ignore[union-attr]


def test_killed_while_saving_leaves_the_one_before(config: MakeConfig, tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    running = start_training(config(steps=100_000, every_steps=1), world_size=2, folder=tmp_path / "run")

    def saving_with_one_committed() -> bool:
        committed = any((path / layout.COMMITTED).exists() for _, path in layout.checkpoints(checkpoints))
        return committed and bool(layout.temporaries(checkpoints))

    eventually(saving_with_one_committed, deadline_s=100, interval_s=0.001, describe=running.outputs, what="a save")
    running.send(signal.SIGKILL)
    running.wait()
    found = load.newest_whole(checkpoints)
    assert found is not None
    steps = found.manifest.step + 1

    ended = start_training(config(steps=steps, every_steps=1), world_size=1, folder=tmp_path / "again").wait()[0]

    assert ended.exit_code == 0, ended.output
    assert report(tmp_path / "again")["resumedStep"] == found.manifest.step
    assert not layout.temporaries(checkpoints), "leftovers are removed when training starts"


def _copy(source: Path, target: Path, *, steps: list[int]) -> Path:
    target.mkdir(parents=True)
    for step in steps:
        shutil.copytree(layout.checkpoint_folder(source, step), layout.checkpoint_folder(target, step))
    return target


def _tensors(checkpoint: Path, scratch: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, whole, by its path in the state."""
    dcp_to_torch_save(checkpoint, os.fspath(scratch))
    found: dict[str, torch.Tensor] = {}

    def walk(name: str, value: object) -> None:
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{name}/{key}", inner)

    walk("", torch.load(scratch, weights_only=False))
    return found


def _assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert len(left) > 50
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different, f"{len(different)} of {len(left)} tensors differ: {different[:5]}"
