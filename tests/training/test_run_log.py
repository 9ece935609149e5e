"""What a run writes down of itself, over a resume: each step once, in whatever kind of log."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.procs import start_training
from support.runs import losses
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

pytestmark = [pytest.mark.training, pytest.mark.timeout(300)]

MakeConfig = Callable[..., dict[str, Any]]


def series(checkpoints: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl, without its first line."""
    return [json.loads(line) for line in (checkpoints / "logs" / "metrics.jsonl").read_text().splitlines()][1:]


def test_a_resumed_run_goes_on_with_its_series(config: MakeConfig, tmp_path: Path) -> None:
    chosen = config(steps=6, globalBatchSize=4)
    chosen["trainer"]["logging"] = {"kinds": ["JSONL", "TensorBoard"], "everySteps": 1, "peakTflops": 0.01}
    checkpoints = tmp_path / "checkpoints"
    (first,) = start_training(chosen, world_size=1, folder=tmp_path / "first").wait()
    assert first.exit_code == 0, first.output
    told = series(checkpoints)
    shutil.rmtree(checkpoints / "step-00000006")
    (second,) = start_training(chosen, world_size=1, folder=tmp_path / "second").wait()
    assert second.exit_code == 0, second.output

    again = series(checkpoints)
    curve = {one["step"]: one["train/loss"] for one in again if "train/loss" in one}
    assert [one["step"] for one in again] == [1, 2, 3, 4, 5, 6, 6], "the last one is the evaluation"
    assert "validation/loss" in again[-1]
    assert curve == pytest.approx(losses(first.output), rel=1e-5)
    assert again[:4] == told[:4], "what was written before the checkpoint stays as it is"
    assert again[4]["time"] > told[-1]["time"]
    assert losses(second.output).keys() == {5, 6}
    expected = {
        "train/gradient_norm",
        "train/learning_rate",
        "time/forward_seconds",
        "memory/resident_bytes",
        "speed/mfu",
    }
    assert expected <= again[0].keys()

    board = EventAccumulator(str(checkpoints / "logs" / "tensorboard"))
    board.Reload()
    assert {event.step: event.value for event in board.Scalars("train/loss")} == pytest.approx(curve)
    assert len(board.Scalars("train/loss")) == 6
