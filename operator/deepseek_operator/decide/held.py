"""Policy: a job that its profile doesn't let start waits; it fails nothing and costs nothing.

Rules
- It rests, as one that is suspended. Nobody watches profiles, so the job is looked at again soon: at first, because it
  may have been applied together with its profile, each second, later each `LOOK_AGAIN_S`.
- A job that was edited above the limits while it runs goes on as it is, does not grow, and says why.
"""

from __future__ import annotations

from dataclasses import replace

from deepseek_operator.api.conditions import Fact, fact_of, parse_time
from deepseek_operator.api.names import ConditionType
from deepseek_operator.api.v1alpha1 import Condition
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Event, Held

LOOK_AGAIN_S = 8.0
"""How soon a mended profile is noticed at most."""


def held(turn: Turn) -> Turn:
    """Gate: lets no run begin while the profile says no. One that has begun goes on."""
    why = turn.seen.held
    if why is None or turn.rest is not None:
        return turn
    if turn.status.active_since is not None:
        return _goes_on(turn, why)
    return waits(turn, why)


def waits(turn: Turn, why: Held) -> Turn:
    """The job rests as long as this is so; announces that it begins."""
    said = fact_of(turn.status.conditions, ConditionType.PODS_READY)
    waiting = replace(turn, rest=Fact(ConditionType.PODS_READY, "False", why.reason, why.message))
    waiting = waiting.due_in(_wait_s(turn, said))
    news = said is None or said.reason != why.reason
    return waiting.announcing(Event("Warning", why.reason, why.message)) if news else waiting


def _goes_on(turn: Turn, why: Held) -> Turn:
    message = f"the job goes on as it was; it asks for {why.message}"
    said = fact_of(turn.status.conditions, ConditionType.ADMITTED)
    turn = turn.stating(Fact(ConditionType.ADMITTED, "True", why.reason, message))
    news = said is None or said.reason != why.reason
    return turn.announcing(Event("Warning", why.reason, message)) if news else turn


def _wait_s(turn: Turn, said: Condition | None) -> float:
    """As long as the job has waited already, within bounds."""
    since = parse_time(said.last_transition_time) if said is not None and said.status == "False" else None
    waited_s = (turn.seen.now - since).total_seconds() if since is not None else 0.0
    return min(max(waited_s, 1.0), LOOK_AGAIN_S)
