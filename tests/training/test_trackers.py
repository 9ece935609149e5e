"""MLflow and W&B themselves, as tools/install.sh puts them apart: what a run tells them is what their own readers find."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.tracked import CONFIG, JOB, PROJECT, UID

pytestmark = [pytest.mark.training, pytest.mark.timeout(120)]

TRACKERS = Path(sys.prefix) / "trackers"
WANDB_CORE = TRACKERS / "wandb" / "bin" / "wandb-core"
TESTS = Path(__file__).parents[1]


def told(kind: str, package: str, folder: Path) -> str:
    """The output of `support.tracked`."""
    if not (TRACKERS / package).is_dir():
        pytest.skip(f"{package} is not installed in {TRACKERS}: tools/install.sh")
    paths = [str(TRACKERS), str(TESTS), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "support.tracked", kind, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_mlflow_has_each_step_once_over_all_starts_of_a_run(tmp_path: Path) -> None:
    (run,) = json.loads(told("MLflow", "mlflow", tmp_path))
    assert (run["name"], run["status"]) == (JOB, "FINISHED")
    assert run["tags"]["deepseekjob.uid"] == UID
    assert run["params"] == {
        "job": JOB,
        "trainer.training.steps": "6",
        "trainer.logging.kinds": "['MLflow', 'WandB']",
    }
    assert run["metrics"] == {
        "train/loss": [[step, 8.0 / step, 1_000_000 + 1000 * step] for step in range(1, 7)],
        "eval/loss": [[step, 9.0 / step, 1_000_500 + 1000 * step] for step in (2, 4)],
    }
    assert json.loads(run["files"].pop("run-config.json")) == CONFIG
    assert run["files"] == {f"samples/step-{step:08d}.txt": f"Grüß Gott {step}" for step in (2, 4)}


def inspected(folder: Path) -> list[dict[str, Any]]:
    """The records of a start's folder, as W&B's own reader prints them."""
    (file,) = folder.glob("*.wandb")
    command = [WANDB_CORE, "leet", "inspect", "--no-observability", "--json", "--run-file", file, folder.parent]
    read = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return [json.loads(line) for line in read.stdout.splitlines()]


def rows(records: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """What was logged, by W&B's step."""
    items = [one["history"]["item"] for one in records if one["type"] == "history"]
    return {item["_step"]: {name: item[name] for name in item if not name.startswith("_")} for item in items}


def test_wandb_is_told_again_what_a_killed_process_had_not_written_yet(tmp_path: Path) -> None:
    told("WandB", "wandb", tmp_path)
    killed, *ended = [inspected(folder) for folder in sorted((tmp_path / "wandb").glob("offline-run-*"))]
    expected = {step: {"train/loss": 8.0 / step} for step in range(1, 7)}
    for step in (2, 4):
        expected[step] |= {"eval/loss": 9.0 / step, "samples": f"Grüß Gott {step}"}  # type: ignore[dict-item]
    assert [rows(one) for one in ended] == [{step: expected[step] for step in steps} for steps in ((3, 4, 5), (6,))]
    assert rows(killed).items() <= expected.items(), "its last seconds W&B keeps to itself"
    begun = [one["run"] for records in ended for one in records if one["type"] == "run"]
    assert {run["run_id"] for run in begun} == {json.loads((tmp_path / "wandb.json").read_text())["run"]}
    for run in begun:
        assert (run["project"], run["display_name"]) == (PROJECT, JOB)
        assert run["resume"] is True, "or `wandb sync` would write it over the earlier start"
        assert {name: run["config"]["update"][name] for name in CONFIG} == CONFIG
    assert [records[-1]["exit"]["exit_code"] for records in ended] == [0, 0]
