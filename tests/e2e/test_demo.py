"""The README's first command, as it is: two workers train without a cluster, one is killed midway, training goes on."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from deepseek_trainer.data import corpora

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "demo.yaml"
TIMEOUT_S = 3600
"""The demo is made for 5 minutes on 2 idle cores; a busy machine and the first download get more."""
MARGIN = 0.5
"""Nats per token by which the model must beat one that ignores context."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of the report, and what the command printed."""
    folder = tmp_path_factory.mktemp("demo")
    stores = corpora.cache(os.environ).with_name("stores")
    stores.mkdir(parents=True, exist_ok=True)
    data = folder / "work" / "claims" / "deepseek-checkpoints" / "demo" / "data"
    data.parent.mkdir(parents=True)
    data.symlink_to(stores)  # the vocabulary is trained once a machine, as in the tests of training
    command = [str(Path(sys.executable).with_name("dsj")), "run", str(DEMO), "--kill-one"]
    command += ["--report", str(folder / "report"), "--workdir", str(folder / "work")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


@pytest.fixture(scope="module")
def summary(demo: tuple[Path, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((demo[0] / "report" / "report.json").read_text())["summary"]
    return found


pytestmark = [pytest.mark.e2e, pytest.mark.timeout(TIMEOUT_S + 60)]


def test_it_succeeds_and_leaves_no_process(demo: tuple[Path, str], summary: dict[str, Any]) -> None:
    folder, output = demo
    assert summary["state"] == "Succeeded", output
    mark = os.fsencode(str(folder))
    left = [path for path in Path("/proc").glob("[0-9]*/environ") if mark in _read(path)]
    assert left == []


def test_one_worker_was_lost_and_training_went_on_from_the_checkpoint(
    demo: tuple[Path, str], summary: dict[str, Any]
) -> None:
    (interruption,) = summary["interruptions"]
    assert "--kill-one: killing demo-worker-1-0" in demo[1]
    assert interruption["step"] > interruption["checkpoint_step"] > 0
    # One more checkpoint may be committed between the look and the kill.
    assert interruption["resumed_step"] == summary["restored_from_step"] >= interruption["checkpoint_step"]
    assert 0 < interruption["recovery_s"] < TIMEOUT_S
    assert (summary["generation"], summary["attempt"]) == (2, 2)
    assert (summary["restarts_infrastructure"], summary["restarts_application"]) == (1, 0)


def test_the_volume_says_the_same_resume_step(demo: tuple[Path, str], summary: dict[str, Any]) -> None:
    claims = demo[0] / "work" / "claims"
    (resumes,) = claims.glob("*/demo/resumes.jsonl")
    lines = [json.loads(line) for line in resumes.read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, summary["restored_from_step"]]
    assert [line["generation"] for line in lines] == [1, 2]


def test_every_sample_counts_once(summary: dict[str, Any]) -> None:
    training = yaml.safe_load(DEMO.read_text())["spec"]["trainer"]["training"]
    assert summary["steps"] == summary["total_steps"] == training["steps"]
    assert summary["samples"] == training["steps"] * training["globalBatchSize"]
    assert summary["chain"]


def test_the_model_learnt_more_than_word_frequencies(summary: dict[str, Any]) -> None:
    assert summary["validation_loss"] < summary["unigram_entropy"] - MARGIN


def test_the_report_has_a_loss_curve(demo: tuple[Path, str], summary: dict[str, Any]) -> None:
    png = (demo[0] / "report" / "report.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert struct.unpack(">II", png[16:24]) == (1600, 1000)
    page = (demo[0] / "report" / "report.md").read_text()
    assert "resumed from checkpoint" in page
    history = json.loads((demo[0] / "report" / "report.json").read_text())["history"]
    first, *others = history["steps"]
    if others:  # what was lost was made again; nothing was if the last step had just been saved
        (second,) = others
        assert second[0]["step"] == summary["restored_from_step"] + 1 <= first[-1]["step"]
    else:
        assert summary["restored_from_step"] + 1 in [step["step"] for step in first]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it ended meanwhile
        return b""
