"""The loop on real text over gloo: it learns, and the number of ranks doesn't matter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.eventually import eventually
from support.procs import start_training
from support.runs import losses, report

pytestmark = [pytest.mark.training, pytest.mark.timeout(400)]

LEARNED = {"DeepSeekV3": 5.35, "Llama": 5.05}
"""Nats per token of the held-out part of chitchat that a model of so few parameters is below after 130 steps."""

MakeConfig = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("model", LEARNED)
def test_learns_more_than_word_frequencies(config: MakeConfig, tmp_path: Path, model: str) -> None:
    chosen = config(steps=130, globalBatchSize=16, microBatchSize=8, sequenceLength=64)
    chosen["trainer"]["optimizer"] = {"learningRate": 4e-3, "warmupSteps": 10}
    if model != "DeepSeekV3":
        chosen["trainer"]["model"] = {"architecture": model, "preset": "tiny", "hiddenSize": 64, "numLayers": 2}
    del chosen["checkpoint"]

    ended = start_training(chosen, world_size=2, folder=tmp_path / "run").wait()

    assert [rank.exit_code for rank in ended] == [0, 0], ended[0].output
    said = report(tmp_path / "run")
    assert said["phase"] == "finished"
    assert said["step"] == said["totalSteps"] == 130
    assert said["position"] == 130 * 16
    assert said["tokensPerSecond"] > 0
    assert said["validationLoss"] < LEARNED[model] < said["unigramEntropy"] - 0.2
    assert "Warning" not in ended[0].output + ended[1].output


def test_every_number_of_ranks_computes_the_same(config: MakeConfig, tmp_path: Path) -> None:
    # A global batch of 5 is divisible by none of 2 and 3, and leaves a rank of 3 short of a micro-batch.
    chosen = config(steps=5, globalBatchSize=5, microBatchSize=1)
    del chosen["checkpoint"]
    runs = {n: start_training(chosen, world_size=n, folder=tmp_path / str(n)) for n in (1, 2, 3)}

    outputs = {n: run.wait()[0].output for n, run in runs.items()}

    said = {n: report(tmp_path / str(n)) for n in runs}
    assert len({report["chain"] for report in said.values()}) == 1
    alone = losses(outputs[1])
    assert sorted(alone) == [1, 2, 3, 4, 5], outputs[1]
    for n in (2, 3):
        assert losses(outputs[n]) == pytest.approx(alone, rel=1e-5)
        assert said[n]["validationLoss"] == pytest.approx(said[1]["validationLoss"], rel=1e-5)
        assert said[n]["experts"] == said[1]["experts"], "each token is counted once, padding never"
        assert said[n]["gradNorm"] == pytest.approx(said[1]["gradNorm"], rel=1e-4)
        assert said[n]["learningRate"] == said[1]["learningRate"] > 0
        parts = said[n]["stepSeconds"]
        assert parts.keys() == {"data", "forward", "backward", "optimizer", "waiting"}
        assert min(parts.values()) >= 0
        assert said[n]["memory"]["resident"] > 50e6
        assert "mfu" not in said[n], "a CPU has no peak that is known"
    assert sum(said[1]["experts"]["shares"]) == pytest.approx(4, abs=0.01)
    assert f"expert_max_violation={said[1]['experts']['maxViolation']:g}" in outputs[1]


def test_bf16_is_close_to_fp32(config: MakeConfig, tmp_path: Path) -> None:
    runs = {}
    for precision in ("fp32", "bf16"):
        chosen = config(steps=4, precision=precision)
        del chosen["checkpoint"]
        runs[precision] = start_training(chosen, world_size=2, folder=tmp_path / precision)

    curves = {precision: losses(run.wait()[0].output) for precision, run in runs.items()}

    assert len(curves["fp32"]) == 4
    assert curves["bf16"] == pytest.approx(curves["fp32"], rel=5e-3)
    assert curves["bf16"] != curves["fp32"]


def test_a_lost_peer_is_infrastructure_and_not_a_hang(config: MakeConfig, tmp_path: Path) -> None:
    chosen = config(steps=100_000)
    del chosen["checkpoint"]  # its first save begins with a wait for all ranks, of hours
    running = start_training(chosen, world_size=2, folder=tmp_path / "run")
    eventually(lambda: " step=2 " in running.output(0), deadline_s=100, describe=running.outputs, what="step 2")

    running.send(9, ranks=[1])
    ended = running.wait(60)

    assert ended[0].exit_code == 69, ended[0].output
    assert "a peer was lost" in ended[0].output
    assert "Traceback" not in ended[0].output


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("training", "steps", 0, "trainer.training.steps"),
        ("training", "stepz", 5, "trainer.training.stepz"),
        ("model", "expertsPerToken", 9, "trainer.model: Value error, expertsPerToken"),
    ],
)
def test_a_wrong_config_names_its_field(
    config: MakeConfig, tmp_path: Path, section: str, field: str, value: int, message: str
) -> None:
    chosen = config()
    chosen["trainer"][section][field] = value

    ended = start_training(chosen, world_size=1, folder=tmp_path / "run").wait()[0]

    assert ended.exit_code == 78
    assert message in ended.output
    assert "Traceback" not in ended.output


def test_a_missing_config_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    environ = {**os.environ, "DEEPSEEKJOB_RUN_CONFIG_FILE": str(tmp_path / "none.json")}

    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "deepseek_trainer"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 78
    assert "none.json: No such file" in done.stdout
    assert " torch\n" not in done.stderr


def test_data_that_is_not_there_is_a_data_error(config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "one.jsonl").write_text(json.dumps({"text": "fine"}) + "\n{broken\n")
    chosen = {**config(), "data": {"path": str(tmp_path / "texts")}, "dataCache": str(tmp_path / "stores")}

    ended = start_training(chosen, world_size=2, folder=tmp_path / "run").wait()

    assert [rank.exit_code for rank in ended] == [65, 65], ended[0].output
    assert "one.jsonl, line 2: not JSON" in ended[0].output
    assert not list((tmp_path / "stores").glob("*")), "a store that was not finished must not be left"
