"""Policy: whether restarts bring anything, measured in committed checkpoints.

    restart ── fruitlessRestarts + 1 ── newer checkpoint than progressMark ──► 0
                     └── recovery.maxRestartsWithoutProgress ──► Failed, NoProgress

Rules
- Losses that the cluster causes before the first step of an attempt don't count: that attempt had no chance. Nor does
  an aftermath, the echo of a loss that did.
- The limit holds where checkpoints are reported. A script that reports none is measured by its budgets alone.
"""

from __future__ import annotations

from deepseek_operator.api.names import Cause
from deepseek_operator.api.v1alpha1 import Status
from deepseek_operator.decide.turn import Turn

OF_THE_CLUSTER = (Cause.INFRASTRUCTURE, Cause.PREEMPTED)


def headway(turn: Turn) -> Turn:
    """A checkpoint newer than the mark is progress: the count begins anew."""
    if turn.status.fruitless_restarts and newest_step(turn.status) > turn.status.progress_mark:
        return turn.changed(fruitless_restarts=0, progress_mark=newest_step(turn.status))
    return turn


def counted(turn: Turn, cause: Cause) -> dict[str, int]:
    """What a restart of that cause changes in the status."""
    fruitless = turn.status.fruitless_restarts + (1 if _counts(turn, cause) else 0)
    return {"fruitless_restarts": fruitless, "progress_mark": newest_step(turn.status)}


def standstill(turn: Turn, cause: Cause) -> str:
    """Why there may be no further restart; empty when there may be one."""
    limit = turn.seen.job.spec.recovery.max_restarts_without_progress
    if turn.status.fruitless_restarts < limit or not (_counts(turn, cause) and _reports_checkpoints(turn)):
        return ""
    newest = turn.status.checkpoint
    beyond = f"newer than step {newest.step}" if newest else "at all"
    return (
        f"{limit} restarts in a row brought no checkpoint {beyond}; mend the cause, save more often "
        "(checkpoint.interval), or raise recovery.maxRestartsWithoutProgress"
    )


def newest_step(status: Status) -> int:
    """Step of the newest committed checkpoint; 0 without one."""
    return status.checkpoint.step if status.checkpoint is not None else 0


def _counts(turn: Turn, cause: Cause) -> bool:
    if cause == Cause.AFTERMATH:
        return False
    return cause not in OF_THE_CLUSTER or turn.status.stepped_at is not None


def _reports_checkpoints(turn: Turn) -> bool:
    spec = turn.seen.job.spec
    return (spec.checkpoint is not None and spec.trainer is not None) or turn.status.checkpoint is not None
