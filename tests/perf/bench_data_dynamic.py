"""Who trains what, over gloo: Dynamic mode, and batches dealt by pace, beside shards of each batch that are all as large.

step           seconds of one, where a row costs one rank of two twice the time; the last steps count, when shares have settled
first step     seconds from the start of two ranks to it, on a corpus that nobody has prepared

All ways train the same model on as many samples a step, and at the same time, so that whoever else computes here slows all
of them. Even dealing is what static sharding does: each rank has its part of the data, whatever it can do in a second. 1.5
times is the most there is to gain in a step.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from deepseek_trainer.data import corpora
from support import costly_rows
from support.bench_table import Row
from support.eventually import eventually
from support.procs import Processes, start_training
from support.runs import run_config

STEPS, SETTLED = 125, 85
ROW_S = (0.04, 0.08)
"""Far more than the tiny model takes, also where others compute beside it."""
DEADLINE_S = 600.0
_STEP = re.compile(r"^(\S+) INFO rank=0 step=(\d+) ", re.MULTILINE)

EVEN: Mapping[str, Any] = {"batching": {"dealing": "Even"}}
BY_PACE: Mapping[str, Any] = {"batching": {"dealing": "ByPace"}}
DYNAMIC: Mapping[str, Any] = {"mode": "Dynamic"}


def rows() -> list[Row]:
    """Measures all ways."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        even, by_pace, dynamic = _steps_s([EVEN, BY_PACE, DYNAMIC], Path(name) / "steps")
        prepared, leased = _first_steps_s([EVEN, DYNAMIC], Path(name) / "first-steps")
    slow = "step, one rank of two half as fast"
    return [
        Row(f"{slow}: by pace", by_pace, even, "s", better="lower", against="even"),
        Row(f"{slow}: Dynamic", dynamic, even, "s", better="lower", against="even"),
        Row("first step, 41 MiB of text: Dynamic", leased, prepared, "s", better="lower", against="Deterministic"),
    ]


def _steps_s(ways: Sequence[Mapping[str, Any]], folder: Path) -> list[float]:
    """Of the settled steps, with a slow rank."""
    cache = corpora.cache(os.environ).with_name("stores")
    training = {"steps": STEPS, "globalBatchSize": 32, "microBatchSize": 32, "sequenceLength": 64}
    worlds = [
        _start(data, folder / str(number), cache, training, module="support.costly_rows")
        for number, data in enumerate(ways)
    ]
    return [_settled_s(ranks.wait(deadline_s=DEADLINE_S)[0].output) for ranks in worlds]


def _settled_s(output: str) -> float:
    at = {int(step): datetime.fromisoformat(time) for time, step in _STEP.findall(output)}
    if STEPS not in at:
        sys.exit(f"training ended early:\n{output[-2000:]}")
    return (at[STEPS] - at[SETTLED]).total_seconds() / (STEPS - SETTLED)


def _first_steps_s(ways: Sequence[Mapping[str, Any]], folder: Path) -> list[float]:
    """From the start of the processes; the vocabulary is trained, too."""
    corpora.find("gcide", os.environ)
    began, seconds = time.monotonic(), dict[int, float]()
    worlds = [
        _start({"corpus": "gcide", **data}, folder / str(number), folder / f"stores-{number}", {"steps": 1})
        for number, data in enumerate(ways)
    ]

    def all_stepped() -> bool:
        for number, ranks in enumerate(worlds):
            if number not in seconds and " step=1 " in ranks.output(0):
                seconds[number] = time.monotonic() - began
        return len(seconds) == len(worlds)

    eventually(all_stepped, deadline_s=DEADLINE_S, describe=lambda: "\n".join(ranks.outputs() for ranks in worlds))
    for ranks in worlds:
        ranks.wait(deadline_s=DEADLINE_S)
    return [seconds[number] for number in range(len(worlds))]


def _start(
    data: Mapping[str, Any], folder: Path, cache: Path, training: dict[str, Any], module: str = "deepseek_trainer"
) -> Processes:
    config = run_config(checkpoints=folder / "checkpoints", data_cache=cache, **training)
    del config["checkpoint"]
    config["data"] |= data
    environ = {costly_rows.ROW_S: ",".join(map(str, ROW_S))}
    return start_training(config, world_size=2, folder=folder / "run", environ=environ, module=module)
