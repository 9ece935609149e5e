"""Policy: the two ways a job ends. Both are for good.

Complete: the work is done (`success`). Failed: a member says that no retry can help (exit status 65 or
78), or the restarts are used up (`recovery`).
"""

from __future__ import annotations

from deepseek_operator.api.conditions import Fact
from deepseek_operator.api.names import Cause, ConditionType, Reason
from deepseek_operator.api.v1alpha1 import FailureStatus
from deepseek_operator.decide.losses import FATAL, Loss, losses_of, recorded
from deepseek_operator.decide.success import success
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Event

FAILURES_MAX = 10
"""Failures that the status remembers."""
FAILURES_AN_ATTEMPT = 4
"""Failures of one attempt that are remembered: a node that takes thirty pods along must not erase the history."""


def ending(turn: Turn) -> Turn:
    """Ends the job if all its members are done, or if one says that it can't be done."""
    done = success(turn)
    if done is not None:
        return completed(turn, *done)
    fatal = [loss for loss in losses_of(turn) if loss.cause in FATAL]
    if not fatal:
        return turn
    reason = Reason.DATA_ERROR if fatal[0].cause == Cause.DATA else Reason.CONFIG_ERROR
    return failed(turn, reason, fatal[0].sentence(), fatal)


def completed(turn: Turn, reason: str, message: str) -> Turn:
    """The job has succeeded."""
    return (
        turn.changed(completion_time=turn.now)
        .stating(
            Fact(ConditionType.COMPLETE, "True", reason, message),
            Fact(ConditionType.FAILED, "False", Reason.FINISHED),
            *_still(Reason.FINISHED),
        )
        .announcing(Event("Normal", reason, message))
    )


def failed(turn: Turn, reason: str, message: str, losses: list[Loss]) -> Turn:
    """The job has failed, and these losses are why."""
    return (
        turn.changed(completion_time=turn.now, failures=remembered(turn, losses))
        .stating(
            Fact(ConditionType.COMPLETE, "False", reason),
            Fact(ConditionType.FAILED, "True", reason, message),
            *_still(reason),
        )
        .announcing(Event("Warning", reason, message))
    )


def remembered(turn: Turn, losses: list[Loss]) -> list[FailureStatus]:
    """status.failures with these losses in front, the newest first. Those on record already stay as they are."""
    known = {failure.pod for failure in recorded(turn.status)}
    news = [loss for loss in losses if loss.member.name not in known][: max(0, FAILURES_AN_ATTEMPT - len(known))]
    new = [loss.failure(turn.now, turn.status.attempt) for loss in news]
    return [*new, *turn.status.failures][:FAILURES_MAX]


def _still(reason: str) -> tuple[Fact, ...]:
    """Nothing runs any more."""
    kinds = (ConditionType.PODS_READY, ConditionType.RUNNING, ConditionType.RESTARTING)
    return tuple(Fact(kind, "False", reason) for kind in kinds)
