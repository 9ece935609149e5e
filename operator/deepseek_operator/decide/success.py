"""When the work is done: spec.lifecycle.successPolicy.

| policy | done as soon as |
| --- | --- |
| AllWorkers | every member has ended with exit status 0 |
| RankZero | the member that is node rank 0 has; the others are then stopped |
"""

from __future__ import annotations

from deepseek_operator.api.names import Reason
from deepseek_operator.decide.gang import members, rank_zero
from deepseek_operator.decide.turn import Turn


def success(turn: Turn) -> tuple[Reason, str] | None:
    """Reason and message of a success; None: the work is not done."""
    job, status = turn.seen.job, turn.status
    gang = members(turn.seen, status)
    done = [member.slot for member in gang if member.pod is not None and member.pod.phase == "Succeeded"]
    if len(done) == len(gang):
        message = f"all {len(gang)} workers ended with exit status 0"
        return Reason.ALL_WORKERS_SUCCEEDED, message if len(gang) > 1 else "the worker ended with exit status 0"
    if job.spec.lifecycle.success_policy == "RankZero":
        first = rank_zero(turn.seen, status).slot
        if first in done:
            return Reason.RANK_ZERO_SUCCEEDED, f"node rank 0 (worker {first}) ended with exit status 0"
    return None
