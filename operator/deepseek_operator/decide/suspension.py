"""Policies: spec.suspend. A suspended job has no pods; resumed, it goes on from its last checkpoint.

    suspend: true     the run ends -> its pods are deleted (on SIGTERM they save) -> none runs any more: Suspended
    suspend: false    the next generation, with a new pod in each slot

Rules
- While the pods go, and afterwards, nothing is lost and nothing has failed: no budget is spent.
- A job whose work is done when the suspension is seen is Complete; one that has ended is not changed.
- Resuming counts in attempt and in restarts.resize. It takes the size that the spec has by then.
"""

from __future__ import annotations

from dataclasses import replace

from deepseek_operator.api.conditions import Fact, fact_of
from deepseek_operator.api.names import ConditionType, Reason
from deepseek_operator.decide.budgets import resized
from deepseek_operator.decide.gang import slots
from deepseek_operator.decide.generation import next_generation
from deepseek_operator.decide.success import success
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Event, Observation


def suspension(turn: Turn) -> Turn:
    """Gate: states Suspended, and holds the pods back while spec.suspend is true."""
    if not turn.seen.job.spec.suspend:
        return _waiting(turn)
    if turn.status.active_since is not None and success(turn) is not None:
        return turn
    fact = _suspended(turn.seen)
    before = fact_of(turn.seen.job.status.conditions, ConditionType.SUSPENDED)
    turn = replace(turn, rest=fact).stating(fact).changed(waiting_since=None)
    if before is not None and (before.status == "True" or before.reason == Reason.SUSPENDING):
        return turn
    return turn.announcing(
        Event("Normal", Reason.SUSPENDED, "spec.suspend is true: the job has no pods until it is false")
    )


def resumption(turn: Turn) -> Turn:
    """The next run of a job that was suspended or sent back to its queue: a new pod in every slot."""
    status = turn.status
    if status.generation == 0 or status.active_since is not None:
        return turn
    message = (
        "the job goes on from its last checkpoint" if status.checkpoint else "the job begins anew: it has no checkpoint"
    )
    return (
        next_generation(turn, range(turn.seen.job.spec.workers.replicas), slots(turn.seen.job, status))
        .changed(restarts=resized(status.restarts), active_since=turn.now, waiting_since=turn.now)
        .stating(Fact(ConditionType.RESTARTING, "True", Reason.RESUMING, message))
        .announcing(Event("Normal", Reason.RESUMING, message))
    )


def _suspended(seen: Observation) -> Fact:
    going = sum(1 for pod in seen.pods if pod.phase not in ("Succeeded", "Failed"))
    head = any(pod.phase not in ("Succeeded", "Failed") for pod in seen.heads)
    if going or head:
        message = f"{going} worker pod{'s have' if going > 1 else ' has'} still to save and go"
        message = message if going else "the pod of the Ray head has still to go"
        return Fact(ConditionType.SUSPENDED, "False", Reason.SUSPENDING, message)
    return Fact(ConditionType.SUSPENDED, "True", Reason.SUSPENDED, "spec.suspend is true")


def _waiting(turn: Turn) -> Turn:
    """Notes when the wait of a job that never ran began: with its creation, or now that it is no more suspended."""
    if turn.status.generation > 0 or turn.status.waiting_since is not None:
        return turn
    was_suspended = fact_of(turn.status.conditions, ConditionType.SUSPENDED)
    created = "" if was_suspended and was_suspended.status == "True" else turn.seen.job.metadata.creation_timestamp
    return turn.changed(waiting_since=created or turn.now)
