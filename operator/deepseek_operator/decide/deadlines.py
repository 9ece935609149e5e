"""Policy: lifecycle.activeDeadlineSeconds and startDeadlineSeconds. A job that exceeds one has failed.

| deadline | counts |
| --- | --- |
| active | active time: neither what was spent suspended or queued, nor is it begun anew by a resumption |
| start | from the creation or the resumption until all pods were ready once, also the time in a queue |

Rule: the next look falls on the very moment.
"""

from __future__ import annotations

from deepseek_operator.api.conditions import parse_time
from deepseek_operator.api.names import Reason
from deepseek_operator.decide.activity import active_s
from deepseek_operator.decide.ending import failed
from deepseek_operator.decide.readiness import pods_ready
from deepseek_operator.decide.turn import Turn


def deadlines(turn: Turn) -> Turn:
    """Fails the job whose time is up; else sees to it that the operator looks when it is."""
    if turn.over:
        return turn
    turn = _active(turn)
    return turn if turn.over else _start(turn)


def _active(turn: Turn) -> Turn:
    limit = turn.seen.job.spec.lifecycle.active_deadline_seconds
    if limit is None or turn.status.active_since is None or turn.rest is not None:
        return turn
    left = limit - active_s(turn.status, turn.seen.now)
    if left > 0:
        return turn.due_in(left)
    return failed(turn, Reason.DEADLINE_EXCEEDED, f"the job was active for {limit} s (activeDeadlineSeconds)", [])


def _start(turn: Turn) -> Turn:
    """Ready once is enough: from then on the job has started, whatever becomes of its pods."""
    since = parse_time(turn.status.waiting_since)
    if since is None:
        return turn
    ready = pods_ready(turn)
    if ready.status == "True" and turn.rest is None:
        return turn.changed(waiting_since=None)
    limit = turn.seen.job.spec.lifecycle.start_deadline_seconds
    if limit is None:
        return turn
    left = limit - (turn.seen.now - since).total_seconds()
    if left > 0:
        return turn.due_in(left)
    waited_for = turn.rest or ready
    message = f"not all pods were ready within {limit} s (startDeadlineSeconds): {waited_for.message}"
    return failed(turn, Reason.START_DEADLINE_EXCEEDED, message, [])
