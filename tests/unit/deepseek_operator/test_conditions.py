"""Conditions: always the same set, transition times that mean something, and a state that follows from them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from deepseek_operator.api.conditions import Fact, is_true, merge, parse_time, rfc3339, summary
from deepseek_operator.api.names import ConditionType, State
from deepseek_operator.api.v1alpha1 import Condition
from support.make import START, later

READY, RUNNING, ADMITTED = ConditionType.PODS_READY, ConditionType.RUNNING, ConditionType.ADMITTED


def ready(conditions: list[Condition]) -> Condition:
    return next(condition for condition in conditions if condition.type == READY)


def test_the_set_is_always_whole_and_in_order() -> None:
    conditions = merge([], [Fact(RUNNING, "True", "Training")], START, 3)
    assert [condition.type for condition in conditions] == [kind.value for kind in ConditionType]
    assert {condition.observed_generation for condition in conditions} == {3}
    assert [condition.status for condition in conditions].count("Unknown") == len(ConditionType) - 1
    assert all(condition.reason for condition in conditions)


def test_transition_time_moves_only_with_the_status() -> None:
    first = merge([], [Fact(READY, "False", "WaitingForPods")], START, 1)
    reworded = merge(first, [Fact(READY, "False", "Unschedulable", "no node")], later(10), 1)
    turned = merge(reworded, [Fact(READY, "True", "AllReady")], later(20), 1)
    assert [ready(c).last_transition_time for c in (first, reworded, turned)] == [
        "2026-03-01T12:00:00Z",
        "2026-03-01T12:00:00Z",
        "2026-03-01T12:00:20Z",
    ]
    assert (ready(reworded).reason, ready(reworded).message) == ("Unschedulable", "no node")


def test_the_later_fact_of_a_type_counts_and_silence_changes_nothing() -> None:
    said = merge([], [Fact(RUNNING, "True", "Training"), Fact(RUNNING, "False", "Starting")], START, 1)
    assert not is_true(said, RUNNING)
    assert merge(said, [], later(60), 1) == said


def test_messages_are_cut() -> None:
    condition = ready(merge([], [Fact(READY, "False", "X", "y" * 9999)], START, 1))
    assert len(condition.message) == 1024


@pytest.mark.parametrize(
    ("true", "state"),
    [
        ([ADMITTED], State.PENDING),
        ([ADMITTED, READY], State.STARTING),
        ([ADMITTED, READY, RUNNING], State.RUNNING),
        ([ADMITTED, RUNNING], State.RUNNING),
        ([ADMITTED, ConditionType.RESTARTING, RUNNING], State.RESTARTING),
        ([ADMITTED, ConditionType.COMPLETE, READY], State.SUCCEEDED),
        ([ADMITTED, ConditionType.FAILED, ConditionType.RESTARTING], State.FAILED),
        ([ADMITTED, ConditionType.CHECKPOINTED], State.PENDING),
        ([ADMITTED, ConditionType.SUSPENDED], State.SUSPENDED),
        ([], State.QUEUED),
        ([READY, RUNNING, ConditionType.RESTARTING], State.QUEUED),
        ([ConditionType.SUSPENDED], State.SUSPENDED),
        ([ConditionType.SUSPENDED, ConditionType.COMPLETE], State.SUCCEEDED),
        ([ConditionType.SUSPENDED, ConditionType.FAILED], State.FAILED),
        ([ConditionType.FAILED, ConditionType.COMPLETE], State.FAILED),
    ],
)
def test_state_is_a_fold(true: list[ConditionType], state: State) -> None:
    facts = [Fact(kind, "True" if kind in true else "False", f"Because{kind}") for kind in ConditionType]
    found, reason = summary(merge([], facts, START, 1))
    assert found == state
    assert reason.startswith("Because")


def test_a_job_that_nobody_has_admitted_or_refused_is_not_queued() -> None:
    assert summary(merge([], [], START, 1))[0] is State.PENDING


def test_times_are_utc_and_whole_seconds() -> None:
    moment = datetime(2026, 3, 1, 14, 0, 0, 999_999, tzinfo=timezone(timedelta(hours=2)))
    assert rfc3339(moment) == "2026-03-01T12:00:00Z"
    assert parse_time("2026-03-01T12:00:00Z") == datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize("text", [None, "", "yesterday", "2026-03-01T12:00:00", "2026-13-01T00:00:00Z"])
def test_what_is_no_time_is_none(text: str | None) -> None:
    assert parse_time(text) is None
