"""Seconds of a step with one slow rank of two: batches dealt by pace beside batches dealt evenly, over gloo.

The slow rank is stopped for half of the time. Both ways train the same batches with the same model; measured are the
last steps of each, when shares have settled.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from deepseek_trainer.data import corpora
from support.bench_table import Row
from support.eventually import eventually
from support.procs import start_training
from support.runs import run_config
from support.slowed import half_stopped

STEPS, SETTLED = 240, 120
DEADLINE_S = 600.0
_STEP = re.compile(r"^(\S+) INFO rank=0 step=(\d+) ", re.MULTILINE)


def rows() -> list[Row]:
    """Measures both ways."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        seconds = {dealing: _step_s(dealing, Path(folder) / dealing) for dealing in ("Even", "ByPace")}
    return [
        Row(
            "step, one rank of two half as fast",
            seconds["ByPace"],
            seconds["Even"],
            "s",
            better="lower",
            against="even",
        )
    ]


def _step_s(dealing: str, folder: Path) -> float:
    cache = corpora.cache(os.environ).with_name("stores")
    training: dict[str, Any] = {"steps": STEPS, "globalBatchSize": 32, "microBatchSize": 32, "sequenceLength": 64}
    config = run_config(checkpoints=folder / "checkpoints", data_cache=cache, **training)
    del config["checkpoint"]
    config["data"]["batching"] = {"dealing": dealing}
    ranks = start_training(config, world_size=2, folder=folder / "run")
    eventually(lambda: " step=1 " in ranks.output(0), deadline_s=DEADLINE_S, describe=ranks.outputs)
    with half_stopped(ranks.processes[1].pid):
        output = ranks.wait(deadline_s=DEADLINE_S)[0].output
    at = {int(step): datetime.fromisoformat(time) for time, step in _STEP.findall(output)}
    if STEPS not in at:
        sys.exit(f"training ended early:\n{output[-2000:]}")
    return (at[STEPS] - at[SETTLED]).total_seconds() / (STEPS - SETTLED)
