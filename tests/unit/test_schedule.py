"""The learning rate as a function of the step: warm-up, then what is asked for."""

from __future__ import annotations

import math

import pytest
from deepseek_trainer.config import OptimizerSpec, ScheduleSpec
from deepseek_trainer.optim.schedule import learning_rate

SPEC = OptimizerSpec(learning_rate=1.0, min_learning_rate_ratio=0.1, warmup_steps=10)
KINDS = ["Cosine", "Linear", "WSD", "Constant"]


def _rates(kind: str, *, steps: int = 100, beyond: int = 0, **spec: float) -> list[float]:
    chosen = SPEC.model_copy(update={"schedule": ScheduleSpec.model_validate({"kind": kind}), **spec})
    return [learning_rate(chosen, step=step, total_steps=steps) for step in range(steps + beyond)]


@pytest.mark.parametrize("kind", KINDS)
def test_warms_up_in_a_line_to_the_peak(kind: str) -> None:
    assert _rates(kind)[:11] == pytest.approx([0.1 * (step + 1) for step in range(10)] + [1.0])


@pytest.mark.parametrize("kind", KINDS)
def test_falls_to_the_floor_and_stays_there_or_never_falls(kind: str) -> None:
    rates = _rates(kind, beyond=40)[10:]
    assert rates == sorted(rates, reverse=True)
    assert rates[90:] == pytest.approx([1.0 if kind == "Constant" else 0.1] * 40)


@pytest.mark.parametrize(
    ("kind", "heights"),
    [
        ("Cosine", {10: 1.0, 55: 0.5, 99: (1 + math.cos(math.pi * 89 / 90)) / 2}),
        ("Linear", {10: 1.0, 55: 0.5, 99: 1 / 90}),
        ("WSD", {10: 1.0, 80: 1.0, 81: 0.95, 90: 0.5, 99: 0.05}),
        ("Constant", {10: 1.0, 99: 1.0}),
    ],
)
def test_has_its_closed_form(kind: str, heights: dict[int, float]) -> None:
    rates = _rates(kind)
    floor = 0.1
    assert {step: rates[step] for step in heights} == pytest.approx(
        {step: floor + (1 - floor) * height for step, height in heights.items()}
    )


def test_a_decay_longer_than_what_is_left_begins_after_the_warm_up() -> None:
    chosen = SPEC.model_copy(update={"schedule": ScheduleSpec(kind="WSD", decay_share=1.0)})
    rates = [learning_rate(chosen, step=step, total_steps=100) for step in range(100)]
    assert rates == pytest.approx(_rates("Linear"))


def test_no_warm_up_starts_at_the_peak() -> None:
    assert _rates("Cosine", steps=10, warmup_steps=0)[0] == 1.0


def test_a_run_shorter_than_its_warm_up_stays_below_the_peak() -> None:
    assert _rates("WSD", steps=5)[4] == pytest.approx(0.5)
