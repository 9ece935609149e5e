"""Run configs of small trainings, and what can be read from what they leave."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_STEP = re.compile(r" step=(\d+) loss=(\S+) ")


def run_config(*, checkpoints: Path, data_cache: Path, every_steps: int = 4, **training: Any) -> dict[str, Any]:
    """A model of a few hundred thousand parameters on chitchat, 512 tokens of vocabulary a thousand."""
    return {
        "job": "test",
        "backend": "gloo",
        "trainer": tiny_trainer(**training),
        "data": {"corpus": "chitchat"},
        "dataCache": str(data_cache),
        "checkpoint": {"directory": str(checkpoints), "everySteps": every_steps, "keep": 3},
    }


def tiny_trainer(**training: Any) -> dict[str, Any]:
    """The trainer's section; keyword arguments are fields of `training`."""
    return {
        "model": {"preset": "tiny", "hiddenSize": 64, "numLayers": 2, "numExperts": 4},
        "tokenizer": {"vocabSize": 1024},
        "training": {"steps": 8, "globalBatchSize": 6, "microBatchSize": 2, "sequenceLength": 32, **training},
        "optimizer": {"warmupSteps": 4},
        "evaluation": {"everySteps": 0, "batches": 3},
    }


def losses(output: str) -> dict[int, float]:
    """The training loss of each step, from rank 0's log."""
    return {int(step): float(loss) for step, loss in _STEP.findall(output)}


def report(folder: Path) -> dict[str, Any]:
    """Rank 0's last report."""
    content: dict[str, Any] = json.loads((folder / "progress.json").read_bytes())
    return content


def resumes(checkpoints: Path) -> list[dict[str, Any]]:
    """What the trainer itself wrote in a job's folder, one entry each time training started."""
    return [json.loads(line) for line in (checkpoints / "resumes.jsonl").read_text().splitlines()]
