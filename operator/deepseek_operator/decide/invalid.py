"""The status of a job whose spec can't be understood.

Rule: it is refused, not run and not tried again; mending the spec is a new beginning. The API server refuses such
objects already; this is for those that were stored before it did, or past it.
"""

from __future__ import annotations

from datetime import datetime

from deepseek_operator.api.conditions import Fact, merge
from deepseek_operator.api.names import ConditionType, Reason, State
from deepseek_operator.api.v1alpha1 import Status


def invalid_status(status: Status, message: str, generation: int, now: datetime) -> Status:
    """The status that says so; equal to `status` if it says so already.

    Args:
        status: as observed; Status() if it can't be read either.
        message: names the field, what is wrong and the remedy.
        generation: metadata.generation of the job.
        now: aware.
    """
    if status.state in (State.SUCCEEDED, State.FAILED) and status.reason != Reason.INVALID_SPEC:
        return status
    reason = Reason.INVALID_SPEC
    facts = (
        Fact(ConditionType.PODS_READY, "False", reason),
        Fact(ConditionType.RUNNING, "False", reason),
        Fact(ConditionType.CHECKPOINTED, "False", reason) if status.checkpoint is None else None,
        Fact(ConditionType.CHECKPOINT_FAILED, "False", reason),
        Fact(ConditionType.RESTARTING, "False", reason),
        Fact(ConditionType.STRAGGLING, "False", reason),
        Fact(ConditionType.COMPLETE, "False", reason),
        Fact(ConditionType.FAILED, "True", reason, message),
        Fact(ConditionType.RECONCILING, "False", reason),
        Fact(ConditionType.STALLED, "True", reason, message),
    )
    return status.model_copy(
        update={
            "observed_generation": generation,
            "state": State.FAILED.value,
            "reason": reason.value,
            "conditions": merge(status.conditions, [fact for fact in facts if fact], now, generation),
        }
    )
