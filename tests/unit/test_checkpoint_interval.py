"""When a checkpoint is due: by steps, by the clock, and by what is worth its cost."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from deepseek_trainer.checkpoint.interval import FIRST_S, LEAST_S, MOST_S, PRIOR_S, Interval, Past, best_s, past
from deepseek_trainer.checkpoint.layout import Start
from deepseek_trainer.checkpoint.load import record_start
from deepseek_trainer.config import CheckpointSpec
from pydantic import ValidationError


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def made(clock: Clock, **spec: object) -> Interval:
    chosen = CheckpointSpec.model_validate({"directory": "/c", "everySteps": None} | spec)
    return Interval(chosen, None, clock)


@pytest.mark.parametrize(
    ("spec", "refused"),
    [
        ({"everySteps": 4}, False),
        ({}, False),
        ({"everySteps": None, "everySeconds": 60}, False),
        ({"everySteps": None, "auto": True}, False),
        ({"everySteps": None}, True),
        ({"everySteps": 4, "everySeconds": 60}, True),
        ({"everySteps": 4, "auto": True}, True),
        ({"everySteps": None, "everySeconds": 60, "auto": True}, True),
    ],
)
def test_there_is_one_way_to_say_when(spec: dict[str, object], refused: bool) -> None:
    if refused:
        with pytest.raises(ValidationError, match="one of everySteps, everySeconds and auto"):
            CheckpointSpec.model_validate({"directory": "/c"} | spec)
    else:
        CheckpointSpec.model_validate({"directory": "/c"} | spec)


def test_by_steps_no_clock_counts() -> None:
    clock = Clock()
    interval = made(clock, everySteps=4)
    clock.now += 10**6
    assert interval.by_steps
    assert [step for step in range(1, 10) if interval.is_step(step)] == [4, 8]
    assert not interval.is_over()


def test_by_seconds_it_counts_from_the_beginning_of_the_last_save() -> None:
    clock = Clock()
    interval = made(clock, everySeconds=30)
    clock.now += 29
    assert not interval.is_over()
    clock.now += 1
    assert interval.is_over()
    assert not interval.is_step(4)
    interval.began()
    interval.ended(7.0, 0.1)
    clock.now += 29.5
    assert not interval.is_over()


def test_auto_is_young_s_formula_of_what_was_measured() -> None:
    clock = Clock()
    interval = made(clock, auto=True)
    assert interval.seconds() == FIRST_S
    for _ in range(10):
        interval.stepped(1.0, beside=False)
    interval.stepped(math.nan, beside=False)
    clock.now += 100
    interval.began()
    interval.stepped(1.5, beside=True)
    interval.stepped(0.5, beside=True)
    interval.ended(seconds=3.0, blocked_s=1.5)
    assert interval.seconds() == pytest.approx(math.sqrt(2 * (1.5 + 0.5) * (PRIOR_S + 100)))
    interval.began()
    interval.ended(seconds=3.0, blocked_s=0.0)
    assert interval.seconds() == pytest.approx(math.sqrt(2 * 1.0 * (PRIOR_S + 100))), "half of the last one"


def test_failures_shorten_it_and_time_without_any_lengthens_it() -> None:
    hour = 3600.0
    assert best_s(2.0, Past(3, 4 * hour)) < best_s(2.0, Past(0, 4 * hour)) < best_s(2.0, Past(0, 100 * hour))
    assert best_s(1e-9, Past()) == LEAST_S
    assert best_s(1e9, Past()) == MOST_S


def test_a_start_after_a_planned_move_is_no_failure(tmp_path: Path) -> None:
    for job, planned in (("other", False), ("own", False), ("own", True), ("own", False), ("own", True)):
        record_start(tmp_path, Start("2026-01-01T00:00:00Z", job, 1, 1, 0, None, planned=planned))
    assert past(tmp_path, "own").failures == 1
    assert past(tmp_path, "nobody") == Past()


def test_auto_leaves_a_save_the_time_that_it_takes() -> None:
    clock = Clock()
    interval = made(clock, auto=True)
    interval.began()
    interval.ended(seconds=900.0, blocked_s=0.01)
    assert interval.seconds() == 900.0
