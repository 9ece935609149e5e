"""The checker of exactly-once data: silent about a run as it should be, loud about any other."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deepseek_trainer.checkpoint import layout
from deepseek_trainer.data.ledger import Batch, Ledger
from support import exactly_once
from support.exactly_once import chains_of, log_problems, require, undisturbed

STEPS = 40
START = Ledger("f" * 64, samples=50, layout="stream:8", seed=3, global_batch=6)
EXPECTED = undisturbed(START, STEPS)


def trained(steps: int = STEPS, batch_of: Callable[[Ledger], Batch] = Ledger.batch) -> Ledger:
    """The trainer's own ledger after so many steps."""
    ledger = START
    for _ in range(steps):
        ledger = ledger.advance(batch_of(ledger))
    return ledger


def left_by(folder: Path, ledger: Ledger) -> dict[str, Any]:
    """The status and the last checkpoint of a run that ended with this ledger."""
    path = folder / f"step-{ledger.step:08d}"
    path.mkdir()
    manifest = layout.Manifest(1, "job", ledger.step, 1, 1, 2, ledger.to_json(), {}, {}, {}, 0.1, "")
    (path / layout.MANIFEST).write_text(json.dumps(manifest.to_json()))
    (path / layout.COMMITTED).touch()
    said = {"step": ledger.step, "samples": ledger.position, "epoch": ledger.epoch, "chain": ledger.chain}
    return {"training": said}


def swapped(ledger: Ledger, at: int, instead: int) -> Batch:
    """The batch of another step in one step's place."""
    return replace(ledger, step=instead).batch() if ledger.step == at else ledger.batch()


def test_an_undisturbed_run_is_as_the_trainer_has_it(tmp_path: Path) -> None:
    assert EXPECTED.chains == tuple(trained(step).chain for step in range(STEPS + 1))
    assert EXPECTED.after(10) == {"step": 10, "position": 60, "epoch": 1, "chain": trained(10).chain}
    require(EXPECTED, status=left_by(tmp_path, trained()), folder=tmp_path)


@pytest.mark.parametrize(
    "ledger",
    [
        pytest.param(replace(trained(), chain="0" * 64), id="a tampered chain"),
        pytest.param(trained(batch_of=lambda ledger: swapped(ledger, 20, 19)), id="a batch again, another lost"),
        pytest.param(trained(STEPS - 1), id="a step too few"),
    ],
)
def test_other_data_is_found_in_status_and_checkpoint(tmp_path: Path, ledger: Ledger) -> None:
    with pytest.raises(AssertionError) as caught:
        require(EXPECTED, status=left_by(tmp_path, ledger), folder=tmp_path)
    for who in ("status: chain is", "newest checkpoint: chain is"):
        assert who in str(caught.value)


def test_a_step_without_its_batch_and_a_batch_without_its_step_are_found(tmp_path: Path) -> None:
    repeated = trained(STEPS + 1)
    lost = replace(trained(STEPS - 1), step=STEPS)
    for number, ledger in enumerate([repeated, lost]):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(AssertionError, match="newest checkpoint: chain is"):
            require(EXPECTED, status=left_by(folder, ledger), folder=folder)


def test_a_status_that_is_not_of_the_checkpoint_is_found(tmp_path: Path) -> None:
    left_by(tmp_path, trained())
    with pytest.raises(AssertionError, match="status: step is None"):
        require(EXPECTED, status={}, folder=tmp_path)


def test_what_is_not_committed_is_no_checkpoint(tmp_path: Path) -> None:
    status = left_by(tmp_path, trained())
    (tmp_path / f"step-{STEPS:08d}" / layout.COMMITTED).unlink()
    with pytest.raises(AssertionError, match="no committed checkpoint"):
        require(EXPECTED, status=status, folder=tmp_path)


def test_an_order_that_repeats_or_loses_samples_is_found() -> None:
    first, second = Ledger("", 4, "stream:1", 0, 2).batch(), Ledger("", 4, "stream:1", 0, 2, step=1).batch()
    chains_of(4, [first, second])
    with pytest.raises(AssertionError, match="step 2 uses samples of epoch 0 again"):
        chains_of(4, [first, first])
    with pytest.raises(AssertionError, match="step 1 uses a sample of epoch 0 twice"):
        chains_of(4, [Batch(np.array([1, 1]), np.array([0, 0]))])
    later = Batch(second.samples, second.epochs + 1)
    with pytest.raises(AssertionError, match="epoch 0 is over at step 2 without samples"):
        chains_of(4, [first, later])


def line(step: int) -> str:
    return f"time=2026-01-01T00:00:00 rank=0 step={step} loss=3.1 lr=0.001"


BEGIN = "time=2026-01-01T00:00:00 rank=0 set up job=j task=pretrain"


def resumed(step: int, chain: str | None = None) -> str:
    return f"time=2026-01-01 resumed step={step} path=/c/step-{step} saved_by=2 chain={chain or EXPECTED.chains[step]}"


@pytest.mark.parametrize(
    ("lines", "problems"),
    [
        ([BEGIN, line(1), line(2)], []),
        ([BEGIN, line(1), line(2), BEGIN, line(1)], []),
        ([BEGIN, resumed(20), line(21), "another line", line(22), BEGIN, resumed(20), line(21)], []),
        (["a pod without rank 0"], []),
        ([BEGIN, line(1), line(3)], ["pod: step 3 follows step 1"]),
        ([BEGIN, line(1), line(1)], ["pod: step 1 follows step 1"]),
        ([BEGIN, resumed(20), line(20)], ["pod: step 20 follows step 20"]),
        ([BEGIN, line(2)], ["pod: step 2 follows step 0"]),
        ([BEGIN, resumed(20, "a" * 64), line(21)], [f"pod: resumed at step 20 with another chain: {'a' * 64}"]),
        ([BEGIN, resumed(STEPS + 1, "a" * 64)], [f"pod: resumed at step 41 with another chain: {'a' * 64}"]),
    ],
)
def test_logs(lines: list[str], problems: list[str]) -> None:
    assert log_problems(EXPECTED, "\n".join(lines), "pod") == problems


def test_logs_count_too(tmp_path: Path) -> None:
    status = left_by(tmp_path, trained())
    with pytest.raises(AssertionError, match="pod-0: step 3 follows step 1"):
        require(EXPECTED, status=status, folder=tmp_path, logs={"pod-0": "\n".join([BEGIN, line(1), line(3)])})


def test_what_a_status_says() -> None:
    said = {"step": 4, "samples": 24, "epoch": 0, "chain": "ab", "loss": "3.1"}
    assert exactly_once.of_status({"training": said}) == {"step": 4, "position": 24, "epoch": 0, "chain": "ab"}
