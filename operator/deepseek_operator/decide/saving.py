"""Policy: whether checkpoints can be saved.

    the trainer reports failures ── CheckpointFailed True ── a checkpoint later than those in the status ──► False
                                         └── the processes start anew, or nothing is heard ──► as it was

Rule: it only says so. What becomes of training is the trainer's, by `checkpoint.onFailure`; what a lost worker costs
then, whoever looks at the age of the last checkpoint knows.
"""

from __future__ import annotations

from datetime import datetime

from deepseek_operator.api.conditions import Fact, is_true, parse_time
from deepseek_operator.api.names import ConditionType, Reason
from deepseek_operator.api.v1alpha1 import DeepSeekJob, Status
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import CheckpointFailure, Event


def saving(turn: Turn) -> Turn:
    """States CheckpointFailed; announces when it begins."""
    failing = is_true(turn.status.conditions, ConditionType.CHECKPOINT_FAILED)
    found = turn.report.checkpoint_failure if turn.report is not None else None
    if found is not None:
        message = sentence(found)
        turn = turn.stating(Fact(ConditionType.CHECKPOINT_FAILED, "True", Reason.NOT_SAVED, message))
        return turn if failing else turn.announcing(Event("Warning", Reason.NOT_SAVED, message))
    if failing and turn.status.checkpoint == turn.seen.job.status.checkpoint:
        return turn
    return turn.stating(Fact(ConditionType.CHECKPOINT_FAILED, "False", Reason.AS_EXPECTED))


def unsaved_since(job: DeepSeekJob, status: Status) -> datetime | None:
    """Since when nothing of what the job trains is saved; None: it makes no steps, or saves nothing that is told."""
    saved = status.checkpoint
    tells = job.spec.checkpoint is not None and (job.spec.trainer is not None or saved is not None)
    if not tells or not is_true(status.conditions, ConditionType.RUNNING):
        return None
    moments = (parse_time(status.active_since), parse_time(saved.time if saved is not None else None))
    return max((moment for moment in moments if moment is not None), default=None)


def sentence(failure: CheckpointFailure) -> str:
    """Which checkpoint is missing, and why."""
    more = f" ({failure.failures} in a row)" if failure.failures > 1 else ""
    return f"the checkpoint of step {failure.step} was not saved{more}: {failure.message or 'the worker says no more'}"
