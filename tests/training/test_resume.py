"""Going back to a checkpoint, with the same ranks and with others; and what is refused."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from deepseek_client.cli import main as dsj
from deepseek_client.errors import NotExportedError
from deepseek_client.export import parse
from deepseek_trainer.checkpoint import layout, load
from deepseek_trainer.checkpoint.export import export
from deepseek_trainer.checkpoint.export import main as export_command
from deepseek_trainer.data.audit.records import Reader, Record, file_of
from safetensors.torch import load_file
from support.checkpoints import assert_same, tensors
from support.eventually import eventually
from support.procs import start_training
from support.runs import losses, report, resumes, run_config
from transformers import PreTrainedTokenizerFast
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3ForCausalLM

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
    assert_same(
        tensors(checkpoints / "step-00000012", tmp_path / "resumed.pt"),
        tensors(undisturbed / "checkpoints" / "step-00000012", tmp_path / "undisturbed.pt"),
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
    ("parallelism", "mesh", "ranks", "after"),
    [
        ({"context": 2, "tensor": 2, "expert": 2}, "mesh=shard:1,context:2,tensor:2,expert:2", 4, 4),
        ({"pipeline": 2}, "mesh=pipeline:2,shard:1", 2, 8),
    ],
    ids=["context, tensor and expert", "pipeline"],
)
def test_a_mesh_of_every_axis_goes_on_with_the_same_batches(
    undisturbed: Path,
    config: MakeConfig,
    tmp_path: Path,
    parallelism: dict[str, int],
    mesh: str,
    ranks: int,
    after: int,
) -> None:
    """From a checkpoint of two ranks of FSDP2; ranks of a context or tensor group or of a pipeline get the same rows, and
    each counts once."""
    checkpoints = _copy(undisturbed / "checkpoints", tmp_path / "checkpoints", steps=[after])
    asked = config(steps=12)
    asked["trainer"]["parallelism"] = parallelism
    asked["data"]["audit"] = True

    ended = start_training(asked, world_size=ranks, folder=tmp_path / "run").wait()

    assert all(rank.exit_code == 0 for rank in ended), ended[0].output
    assert mesh in ended[0].output
    curve = losses((undisturbed / "rank-0.log").read_text())
    wanted = {step: loss for step, loss in curve.items() if step > after}
    assert losses(ended[0].output) == pytest.approx(wanted, rel=1e-5)
    said, before = report(tmp_path / "run"), report(undisturbed)
    assert said["chain"] == before["chain"]
    assert said["validationLoss"] == pytest.approx(before["validationLoss"], rel=1e-5)
    start = resumes(checkpoints)[-1]["start"]
    trained = [Reader(file_of(checkpoints / layout.AUDIT, start, rank)) for rank in range(ranks)]
    for step in range(after + 1, 13):
        records = [reader.next() for reader in trained]
        samples = [sample for record in records if isinstance(record, Record) for sample in record.samples.tolist()]
        assert len(set(samples)) == len(samples) == asked["trainer"]["training"]["globalBatchSize"], step


def test_resharding_changes_no_bit_and_the_loss_goes_on(undisturbed: Path, config: MakeConfig, tmp_path: Path) -> None:
    """2 -> 4 -> 1 -> 3 ranks: each world only reads what the one before has saved, and saves it; the last one trains on."""
    source = _copy(undisturbed / "checkpoints", tmp_path / "on 2", steps=[4])
    whole = tensors(source / "step-00000004", tmp_path / "2.pt")
    for size in (4, 1, 3):
        target = tmp_path / f"on {size}"
        ended = start_training(
            config(steps=12),
            world_size=size,
            folder=tmp_path / f"{size}",
            environ={"FROM": str(source), "TO": str(target)},
            module="support.resharder",
        ).wait()
        assert all(rank.exit_code == 0 for rank in ended), ended[0].output
        assert layout.read_manifest(target / "step-00000004").world_size == size
        assert_same(tensors(target / "step-00000004", tmp_path / f"{size}.pt"), whole)
        source = target

    shutil.copytree(source, tmp_path / "checkpoints")
    ended = start_training(config(steps=12), world_size=3, folder=tmp_path / "run").wait()

    assert all(rank.exit_code == 0 for rank in ended), ended[0].output
    curve = losses((undisturbed / "rank-0.log").read_text())
    wanted = {step: loss for step, loss in curve.items() if step > 4}
    assert losses(ended[0].output) == pytest.approx(wanted, rel=1e-5)


def test_an_export_is_the_model_bit_for_bit(
    undisturbed: Path, store_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = undisturbed / "checkpoints"
    vocabulary = store_folder / "tokenizer.json"
    tensors(folder / "step-00000012", tmp_path / "whole.pt")
    reference = DeepseekV3ForCausalLM(DeepseekV3Config.from_pretrained(folder / "model"))
    reference.load_state_dict(torch.load(tmp_path / "whole.pt", weights_only=False)["model"])
    samples = torch.arange(64).reshape(2, 32)

    export(folder, tmp_path / "hf", tokenizer=vocabulary, file_bytes=300_000)
    exported = DeepseekV3ForCausalLM.from_pretrained(tmp_path / "hf")

    with torch.no_grad():
        assert torch.equal(exported.eval()(samples).logits, reference.eval()(samples).logits)
    reference.save_pretrained(tmp_path / "saved")
    assert _safetensors(tmp_path / "hf").keys() == _safetensors(tmp_path / "saved").keys(), "the published names"
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 3
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "hf", clean_up_tokenization_spaces=False)
    assert tokenizer.decode(tokenizer.encode("hello there")) == "hello there"

    words = tmp_path / "words"
    told = ["--brief-to", str(words)]
    assert export_command([str(folder), str(tmp_path / "half"), "--dtype", "bfloat16", "--step", "8", *told]) == 0
    assert parse(words.read_text()) == f"step 8 is in {tmp_path}/half"
    assert "step 8 is whole\nfile 1: " in capsys.readouterr().out
    assert {tensor.dtype for tensor in _safetensors(tmp_path / "half").values()} == {torch.bfloat16}
    assert export_command([str(folder), str(tmp_path / "half"), *told]) == 1
    with pytest.raises(NotExportedError, match="is there already"):
        parse(words.read_text())
    assert export_command([str(folder), str(tmp_path / "none"), "--step", "7"]) == 65
    assert "is there already" in (said := capsys.readouterr().err)
    assert "step-00000007 can't be exported" in said
    assert not list(tmp_path.glob(".*.tmp"))

    with pytest.raises(SystemExit) as ended:
        dsj(["export", str(tmp_path / "again"), "--folder", str(folder), "--tokenizer", str(vocabulary)])
    assert (ended.value.code, f"step 12 is in {tmp_path}/again" in capsys.readouterr().out) == (0, True)
    assert _safetensors(tmp_path / "again").keys() == _safetensors(tmp_path / "hf").keys()


@pytest.mark.parametrize("optimizer", [False, True])
def test_a_new_job_begins_with_another_one_s_checkpoint(
    undisturbed: Path, config: MakeConfig, tmp_path: Path, optimizer: bool
) -> None:
    """Step 0 and its own data; nothing is written to the other's folder. Its own checkpoint counts once there is one."""
    source = _copy(undisturbed / "checkpoints", tmp_path / "other", steps=[4, 8])
    chosen = config(steps=1, seed=7, globalBatchSize=4)
    chosen["trainer"]["optimizer"] = {"warmupSteps": 0, "learningRate": 1e-12, "weightDecay": 0}
    chosen["trainer"]["model"] |= {"experts": {"biasUpdateRate": 0}}
    chosen["checkpoint"]["resumeFrom"] = {"directory": str(source), "step": 8, "optimizer": optimizer}

    ended = start_training(chosen, world_size=1, folder=tmp_path / "run").wait()[0]

    assert ended.exit_code == 0, ended.output
    assert f"begins with path={source}/step-00000008 step=8" in ended.output
    checkpoints = tmp_path / "checkpoints"
    mine, theirs = (
        tensors(folder, tmp_path / f"{number}.pt")
        for number, folder in enumerate((checkpoints / "step-00000001", source / "step-00000008"))
    )
    weights = [name for name in mine if name.startswith("/model/") and mine[name].is_floating_point()]
    assert all(torch.allclose(mine[name], theirs[name], atol=1e-6) for name in weights), "a tiny step from the other's"
    steps = {float(tensor) for name, tensor in mine.items() if name.endswith("/step")}
    assert steps == ({9.0} if optimizer else {1.0})
    assert layout.read_manifest(checkpoints / "step-00000001").ledger["position"] == 4
    assert sorted(path.name for path in source.iterdir()) == ["step-00000004", "step-00000008"]

    shutil.rmtree(source)
    chosen["trainer"]["training"]["steps"] = 2
    ended = start_training(chosen, world_size=1, folder=tmp_path / "again").wait()[0]
    assert ended.exit_code == 0, ended.output
    assert report(tmp_path / "again")["resumedStep"] == 1


@pytest.mark.parametrize(
    ("source", "hidden", "exit_code", "message"),
    [
        ({"step": 12}, 32, 78, "hidden_size was 64, now 32; set trainer.model as that job has it, or remove checkpoint.resumeFrom"),
        ({"step": 5}, 64, 65, "step-00000005 can't be used: manifest.json can't be read: No such file or directory; correct step"),
        ({"directory": "/nowhere"}, 64, 65, "checkpoint.resumeFrom: /nowhere has no checkpoint; correct subPath"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_a_job_can_t_begin_with_is_refused(
    undisturbed: Path,
    config: MakeConfig,
    tmp_path: Path,
    source: dict[str, Any],
    hidden: int,
    exit_code: int,
    message: str,
) -> None:
    chosen = config(steps=1)
    chosen["trainer"]["model"]["hiddenSize"] = hidden
    chosen["checkpoint"]["resumeFrom"] = {"directory": str(undisturbed / "checkpoints")} | source

    ended = start_training(chosen, world_size=1, folder=tmp_path / "run").wait()[0]

    assert ended.exit_code == exit_code, ended.output
    assert message in ended.output
    assert "Traceback" not in ended.output


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
    assert not any(start["planned"] for start in resumes(checkpoints))
    assert not layout.temporaries(checkpoints), "leftovers are removed when training starts"


def _copy(source: Path, target: Path, *, steps: list[int]) -> Path:
    target.mkdir(parents=True)
    for step in steps:
        shutil.copytree(layout.checkpoint_folder(source, step), layout.checkpoint_folder(target, step))
    return target


def _safetensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
