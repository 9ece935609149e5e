"""Policy: a gang that is whole, and has not begun its generation, is reminded of it.

    all members ready ── node rank 0 reports another generation ── 2, 6, 14, 30 … s later ──► another reminder on each

A kubelet shows a changed annotation as a file within a second. But a change that comes while it still renews the file on
account of another one (the pod has just become ready, say) can be lost on the way, until the kubelet looks at the pod
again for its own reasons: a minute or more. Any change of the pod makes it look at once, so a reminder says nothing; it
only is another one.

Rule: nothing is written of it, and nothing depends on it. A reminder that is not wanted any more stays as it is.
"""

from __future__ import annotations

from datetime import timedelta

from deepseek_operator.api.conditions import parse_time
from deepseek_operator.api.v1alpha1 import Status
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Observation

FIRST_S = 2.0
MOST = 8
"""Reminders of one generation; the last comes after eight minutes."""


def reminding(turn: Turn) -> Turn:
    """Sees to it that the next reminder is not late."""
    sent, since = _due(turn.seen, turn.status), parse_time(turn.status.assembled_at)
    if sent is None or since is None or sent == MOST:
        return turn
    due = since + timedelta(seconds=_after_s(sent + 1))
    return turn.due_in((due - turn.seen.now).total_seconds())


def reminder(seen: Observation, status: Status) -> str:
    """What the members' annotation shall say; empty when there is nothing to remind them of (yet)."""
    number = _due(seen, status)
    return f"{status.generation}.{number}" if number else ""


def _due(seen: Observation, status: Status) -> int | None:
    """How many reminders are due by now; None when there is no reason for any."""
    since = parse_time(status.assembled_at)
    if since is None or seen.progress is None or seen.progress.generation == status.generation:
        return None
    waited_s = (seen.now - since).total_seconds()
    return sum(waited_s >= _after_s(number) for number in range(1, MOST + 1))


def _after_s(number: int) -> float:
    """Seconds from the time when all were ready to this reminder."""
    return FIRST_S * (2.0**number - 1)
