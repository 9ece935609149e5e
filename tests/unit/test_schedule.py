"""Warm-up and cosine decay as a function of the step."""

from __future__ import annotations

import pytest
from deepseek_trainer.config import OptimizerSpec
from deepseek_trainer.optim.schedule import learning_rate

SPEC = OptimizerSpec(learning_rate=1.0, min_learning_rate_ratio=0.1, warmup_steps=10)


def test_warms_up_in_a_line_to_the_peak() -> None:
    rates = [learning_rate(SPEC, step=step, total_steps=100) for step in range(11)]
    assert rates == pytest.approx([0.1 * (step + 1) for step in range(10)] + [1.0])


def test_decays_to_the_floor_and_stays_there() -> None:
    rates = [learning_rate(SPEC, step=step, total_steps=100) for step in range(10, 140)]
    assert rates == sorted(rates, reverse=True)
    assert rates[45] == pytest.approx(0.55)
    assert rates[-1] == pytest.approx(0.1)


def test_no_warm_up_starts_at_the_peak() -> None:
    spec = SPEC.model_copy(update={"warmup_steps": 0})
    assert learning_rate(spec, step=0, total_steps=10) == 1.0


def test_a_run_shorter_than_its_warm_up_stays_below_the_peak() -> None:
    assert learning_rate(SPEC, step=4, total_steps=5) == pytest.approx(0.5)
