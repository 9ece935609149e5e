"""lifecycle.ttlSecondsAfterFinished: how long an ended job is kept.

Rule: counted from status.completionTime alone, so that it holds over restarts of the operator, and a later change of
the field is heeded.
"""

from __future__ import annotations

from datetime import datetime

from deepseek_operator.api.conditions import parse_time
from deepseek_operator.api.v1alpha1 import DeepSeekJob, Status
from deepseek_operator.decide.turn import ended


def seconds_to_live(job: DeepSeekJob, status: Status, now: datetime) -> float | None:
    """Until the job is to be deleted, 0 or less: now; None: it is kept, or has not ended."""
    ttl, since = job.spec.lifecycle.ttl_seconds_after_finished, parse_time(status.completion_time)
    if ttl is None or since is None or not ended(status):
        return None
    return ttl - (now - since).total_seconds()
