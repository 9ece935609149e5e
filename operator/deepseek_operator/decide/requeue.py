"""When to look again though nothing happened: to read progress, to repeat deletes, to do what was put off."""

from __future__ import annotations

from deepseek_operator.decide.turn import Turn, ended

POLL_S = 5.0
"""Between two readings of /progress."""
WAIT_S = 15.0
"""Between two looks at pods that come up; their events usually come first."""
DELETE_AGAIN_S = 5.0


def requeue_after_s(turn: Turn, *, deleting: bool) -> float | None:
    """Seconds, or None once the job has ended and nothing is left to be deleted."""
    if ended(turn.status):
        return DELETE_AGAIN_S if deleting else None
    runs = any(pod.phase == "Running" for pod in turn.seen.pods)
    regular = POLL_S if runs else WAIT_S
    return regular if turn.wait_s is None else max(0.1, min(turn.wait_s, regular))
