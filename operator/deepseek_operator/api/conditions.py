"""Conditions: facts about the job that remember when they last changed, and the one word that sums them up.

Rules: every type of `ConditionType` is always present, in that order; lastTransitionTime moves only when the
status of the condition does; `state` is a pure fold of the conditions and of nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from deepseek_operator.api.names import ConditionType, Reason, State
from deepseek_operator.api.v1alpha1 import Condition

MESSAGE_MAX = 1024
"""Characters of a condition's message that are kept."""

Truth = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class Fact:
    """What a condition says, without its history."""

    type: ConditionType
    status: Truth
    reason: str
    message: str = ""


def rfc3339(moment: datetime) -> str:
    """A moment as the API writes it: UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str | None) -> datetime | None:
    """A moment as the API writes it; None when there is none, or it can't be read."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def fact_of(conditions: Iterable[Condition], kind: ConditionType) -> Condition | None:
    """The condition of one type; None when it was never written."""
    return next((condition for condition in conditions if condition.type == kind), None)


def is_true(conditions: Iterable[Condition], kind: ConditionType) -> bool:
    """Whether a condition holds; one that was never written doesn't."""
    condition = fact_of(conditions, kind)
    return condition is not None and condition.status == "True"


def merge(old: Iterable[Condition], facts: Iterable[Fact], now: datetime, observed_generation: int) -> list[Condition]:
    """The conditions after `facts`: the full set, in the order of ConditionType.

    A type that no fact is about keeps what it said; if it never said anything it is Unknown.
    """
    before = {condition.type: condition for condition in old}
    news = {fact.type: fact for fact in facts}
    return [
        _renewed(before.get(kind), news.get(kind) or _unchanged(kind, before.get(kind)), now, observed_generation)
        for kind in ConditionType
    ]


def _unchanged(kind: ConditionType, old: Condition | None) -> Fact:
    if old is None:
        return Fact(kind, "Unknown", Reason.NOT_STARTED)
    return Fact(kind, old.status, old.reason, old.message)


def _renewed(old: Condition | None, fact: Fact, now: datetime, observed_generation: int) -> Condition:
    same = old is not None and old.status == fact.status
    return Condition(
        type=fact.type.value,
        status=fact.status,
        reason=str(fact.reason),
        message=fact.message[:MESSAGE_MAX],
        last_transition_time=old.last_transition_time if old is not None and same else rfc3339(now),
        observed_generation=observed_generation,
    )


_FOLD: tuple[tuple[ConditionType, Truth, State], ...] = (
    (ConditionType.FAILED, "True", State.FAILED),
    (ConditionType.COMPLETE, "True", State.SUCCEEDED),
    (ConditionType.SUSPENDED, "True", State.SUSPENDED),
    (ConditionType.ADMITTED, "False", State.QUEUED),
    (ConditionType.RESTARTING, "True", State.RESTARTING),
    (ConditionType.RUNNING, "True", State.RUNNING),
)


def summary(conditions: list[Condition]) -> tuple[State, str]:
    """The state and the reason behind it: the first condition that says so, or why the pods are not there yet."""
    for kind, truth, state in _FOLD:
        condition = fact_of(conditions, kind)
        if condition is not None and condition.status == truth:
            return state, condition.reason
    if is_true(conditions, ConditionType.PODS_READY):
        running = fact_of(conditions, ConditionType.RUNNING)
        return State.STARTING, running.reason if running is not None else Reason.STARTING
    pods = fact_of(conditions, ConditionType.PODS_READY)
    return State.PENDING, pods.reason if pods is not None else Reason.NOT_STARTED
