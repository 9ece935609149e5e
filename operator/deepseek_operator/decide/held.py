"""Policy: a job that its profile doesn't let start waits; it fails nothing and costs nothing.

Rule: no gang, no policy about one. Nobody watches profiles, so the job is looked at again soon: at first, because it
may have been applied together with its profile, each second, later each `LOOK_AGAIN_S`.
"""

from __future__ import annotations

from dataclasses import replace

from deepseek_operator.api.conditions import Fact, fact_of, parse_time
from deepseek_operator.api.names import ConditionType, Reason
from deepseek_operator.api.v1alpha1 import Condition
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Event

LOOK_AGAIN_S = 8.0
"""How soon a mended profile is noticed at most."""


def held(turn: Turn) -> Turn:
    """Lets nothing begin while the profile says no."""
    why = turn.seen.held
    if why is None or turn.status.generation > 0:
        return turn
    said = fact_of(turn.status.conditions, ConditionType.PODS_READY)
    waiting = replace(turn, idle=True, wait_s=_wait_s(turn, said)).stating(
        Fact(ConditionType.ADMITTED, "False", why.reason),
        Fact(ConditionType.SUSPENDED, "False", Reason.AS_EXPECTED),
        Fact(ConditionType.PODS_READY, "False", why.reason, why.message),
        Fact(ConditionType.RUNNING, "False", why.reason),
        Fact(ConditionType.CHECKPOINTED, "False", Reason.NO_CHECKPOINT),
        Fact(ConditionType.RESTARTING, "False", Reason.AS_EXPECTED),
        Fact(ConditionType.COMPLETE, "False", Reason.AS_EXPECTED),
        Fact(ConditionType.FAILED, "False", Reason.AS_EXPECTED),
    )
    news = said is None or said.reason != why.reason
    return waiting.announcing(Event("Warning", why.reason, why.message)) if news else waiting


def _wait_s(turn: Turn, said: Condition | None) -> float:
    """As long as the job has waited already, within bounds."""
    since = parse_time(said.last_transition_time) if said is not None and said.status == "False" else None
    waited_s = (turn.seen.now - since).total_seconds() if since is not None else 0.0
    return min(max(waited_s, 1.0), LOOK_AGAIN_S)
