"""When to look again though nothing happened: to repeat deletes, to do what was put off, and in case an event was lost.

A report of progress that changed wakes its job by itself, so the regular look may be rare: each one costs a read of
the job and of its pods.
"""

from __future__ import annotations

from deepseek_operator.decide.turn import Turn, ended

REGULAR_S = 30.0
"""Between two looks at a job that lives; events usually come first."""
DELETE_AGAIN_S = 5.0
AT_ONCE_S = 0.02


def requeue_after_s(turn: Turn, *, grouping: bool, deleting: bool) -> float | None:
    """Seconds, or None once the job has ended and nothing is left to be deleted. grouping: the pods wait for a
    PodGroup that is just being made.
    """
    if ended(turn.status):
        return DELETE_AGAIN_S if deleting else None
    if grouping:
        return AT_ONCE_S
    return REGULAR_S if turn.wait_s is None else max(0.1, min(turn.wait_s, REGULAR_S))
