"""Active time: how long the job was allowed to have pods, over all its runs.

    status.activeSince     set when a run begins, cleared when it ends
    status.activeSeconds   the runs before

Rule: a job may have pods while activeSince is set, and at no other time: `effects` go by it.
"""

from __future__ import annotations

from datetime import datetime

from deepseek_operator.api.conditions import parse_time
from deepseek_operator.api.v1alpha1 import Status
from deepseek_operator.decide.turn import Turn


def active_s(status: Status, now: datetime) -> float:
    """Seconds of active time until now; a clock that went back takes none away."""
    since = parse_time(status.active_since)
    return status.active_seconds + (max((now - since).total_seconds(), 0.0) if since else 0.0)


def halted(turn: Turn) -> Turn:
    """The run is over: its seconds are added to those before."""
    now = parse_time(turn.now) or turn.seen.now
    return turn.changed(active_since=None, active_seconds=int(active_s(turn.status, now)))


def accounted(turn: Turn) -> Turn:
    """Policy: an ended job is active no more."""
    return halted(turn) if turn.over and turn.status.active_since else turn
