"""When to look again though nothing happened: to repeat deletes, to do what was put off or falls due, and in case an
event was lost.

A report of progress that changed wakes its job by itself, so the regular look may be rare: each one costs a read of
the job and of its pods.
"""

from __future__ import annotations

from deepseek_operator.api.conditions import is_true
from deepseek_operator.api.names import ConditionType
from deepseek_operator.decide.hang import left_until_hang_s
from deepseek_operator.decide.ttl import seconds_to_live
from deepseek_operator.decide.turn import Turn, ended

REGULAR_S = 30.0
"""Between two looks at a job that lives; events usually come first."""
DELETE_AGAIN_S = 5.0
AT_ONCE_S = 0.02
SOONEST_S = 0.1
LONGEST_S = 3600.0
"""A date further off is looked at in between: timers don't follow a clock that is set right."""


def requeue_after_s(turn: Turn, *, preparing: bool, deleting: bool) -> float | None:
    """Seconds; None when only an event can bring something new: the job has ended and nothing of it runs, or it is
    suspended.

    Args:
        preparing: the pods wait for a PodGroup, or a claim, that is just being made.
        deleting: deletes are under way, and may fail.
    """
    if preparing:
        return AT_ONCE_S
    dates = [turn.due_s, turn.wait_s, seconds_to_live(turn.seen.job, turn.status, turn.seen.now)]
    if not ended(turn.status) and turn.rest is None:
        dates.append(left_until_hang_s(turn))
    dates.append(_regular_s(turn, deleting=deleting))
    known = [seconds for seconds in dates if seconds is not None]
    return max(SOONEST_S, min(*known, LONGEST_S)) if known else None


def _regular_s(turn: Turn, *, deleting: bool) -> float | None:
    """As long as there is something that may come without an event, or whose event may be lost."""
    if deleting:
        return DELETE_AGAIN_S
    if ended(turn.status):
        return REGULAR_S if any(pod.terminating for pod in (*turn.seen.pods, *turn.seen.heads)) else None
    return None if is_true(turn.status.conditions, ConditionType.SUSPENDED) else REGULAR_S
