"""When to look again though nothing happened: to repeat deletes, to do what was put off, and in case an event was lost.

A report of progress that changed wakes its job by itself, so the regular look may be rare: each one costs a read of
the job and of its pods.
"""

from __future__ import annotations

from deepseek_operator.decide.hang import left_until_hang_s
from deepseek_operator.decide.turn import Turn, ended

REGULAR_S = 30.0
"""Between two looks at a job that lives; events usually come first."""
DELETE_AGAIN_S = 5.0
AT_ONCE_S = 0.02
SOONEST_S = 0.1


def requeue_after_s(turn: Turn, *, grouping: bool, deleting: bool) -> float | None:
    """Seconds, or None once the job has ended and nothing is left of it that runs or terminates. grouping: the pods
    wait for a PodGroup that is just being made.
    """
    if ended(turn.status):
        if deleting:
            return DELETE_AGAIN_S
        return REGULAR_S if any(pod.terminating for pod in turn.seen.pods) else None
    if grouping:
        return AT_ONCE_S
    dues = [due_s for due_s in (turn.wait_s, left_until_hang_s(turn)) if due_s is not None]
    return max(SOONEST_S, min([REGULAR_S, *dues]))
