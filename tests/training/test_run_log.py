"""What a run says of itself beside its report: series, over a resume each step once, texts, traces. None of it changes training."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.procs import start_training
from support.runs import losses
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

pytestmark = [pytest.mark.training, pytest.mark.timeout(300)]

MakeConfig = Callable[..., dict[str, Any]]
MARKS = ("forward", "backward", "optimizer", "checkpoint")
PROMPTS = ["Hello, how are", "I"]


def series(checkpoints: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl, without its first line."""
    return [json.loads(line) for line in (checkpoints / "logs" / "metrics.jsonl").read_text().splitlines()][1:]


def state(checkpoint: Path) -> dict[str, str]:
    """Hashes of the shards of a checkpoint."""
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    return {name: file["sha256"] for name, file in files.items() if name.endswith(".distcp")}


def trained(chosen: dict[str, Any], folder: Path, ranks: int) -> str:
    """The output of rank 0."""
    ended = start_training(chosen, world_size=ranks, folder=folder).wait()
    assert [rank.exit_code for rank in ended] == [0] * ranks, ended[0].output
    return ended[0].output


def test_what_a_run_says_is_told_once_and_changes_nothing(config: MakeConfig, tmp_path: Path) -> None:
    plain = config(steps=6, globalBatchSize=4)
    plain["checkpoint"]["directory"] = str(tmp_path / "plain")
    trained(plain, tmp_path / "silent", 2)

    chosen = config(steps=6, globalBatchSize=4)
    chosen["trainer"]["logging"] = {"kinds": ["JSONL", "TensorBoard"], "everySteps": 1, "peakTflops": 0.01}
    samples = {"prompts": PROMPTS, "newTokens": 6, "temperature": 0.8}
    chosen["trainer"]["evaluation"] = {"everySteps": 2, "batches": 3, "samples": samples}
    chosen["trainer"]["profile"] = {"fromStep": 4, "steps": 2, "ranks": [1]}
    checkpoints = tmp_path / "checkpoints"
    output = trained(chosen, tmp_path / "first", 2)
    told = series(checkpoints)
    assert state(checkpoints / "step-00000006") == state(tmp_path / "plain" / "step-00000006") != {}

    (trace,) = (checkpoints / "profiles").iterdir()
    assert trace.name == "step-00000004-rank-00001.json.gz"
    marks = Counter(event["name"] for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"])
    assert {name: marks[name] for name in MARKS} == {"forward": 2, "backward": 2, "optimizer": 2, "checkpoint": 1}
    assert marks["data"] > 0

    shutil.rmtree(checkpoints / "step-00000006")
    chosen["trainer"]["parallelism"] = {"pipeline": 2}
    resumed = trained(chosen, tmp_path / "second", 2)
    again = series(checkpoints)
    curve = {one["step"]: one["train/loss"] for one in again if "train/loss" in one}
    assert [one["step"] for one in again] == [1, 2, 2, 3, 4, 4, 5, 6, 6], "evaluations have records of their own"
    assert curve == pytest.approx(losses(output), rel=1e-5)
    assert again[:6] == told[:6], "what was written before the checkpoint stays as it is"
    assert again[6]["time"] > told[-1]["time"]
    assert losses(resumed).keys() == {5, 6}
    expected = {
        "train/gradient_norm",
        "train/learning_rate",
        "time/forward_seconds",
        "memory/resident_bytes",
        "speed/mfu",
    }
    assert expected <= again[0].keys()

    texts = {one["step"]: (one["samples/0"], one["samples/1"]) for one in again if "validation/loss" in one}
    assert texts.keys() == {2, 4, 6}
    assert all(
        text.startswith(prompt) and text != prompt
        for pair in texts.values()
        for text, prompt in zip(pair, PROMPTS, strict=True)
    )
    assert len(set(texts.values())) == 3, "each step draws anew"
    assert texts[6] == tuple(told[-1][f"samples/{n}"] for n in (0, 1)), "a pipeline writes what shards have written"
    assert len(re.findall(r'sampled step=\d+ prompt="I" text="', output)) == 3

    board = EventAccumulator(str(checkpoints / "logs" / "tensorboard"))
    board.Reload()
    assert {event.step: event.value for event in board.Scalars("train/loss")} == pytest.approx(curve)
    assert len(board.Scalars("train/loss")) == 6
