"""Policy: Kueue. A job that asks for a queue has no pods before it was given quota, and none after it lost it.

    no Workload -> one is made -> Admitted by Kueue: the gang starts            Admitted=True
    Evicted (pre-empted, deactivated, its queue stopped) -> the run ends, its pods save and go -> the quota is given back
            -> Kueue admits it again: the next generation, with a new pod in each slot

Rules
- An eviction is no failure: no budget is spent, and the time in the queue is no active time.
- A job that is resized asks anew: the pods of a Workload that holds quota can't be changed. So it goes back into the queue.
- Where Kueue can't be asked (any more), a job that runs goes on, and one that waits goes on waiting.
"""

from __future__ import annotations

from dataclasses import replace

from deepseek_operator.api.conditions import Fact, fact_of
from deepseek_operator.api.names import ConditionType, Reason
from deepseek_operator.decide.gang import members, pods_wanted
from deepseek_operator.decide.success import success
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Event, Queue, Workload

ASK_AGAIN_S = 8.0
"""How soon it is noticed that Kueue can be asked again."""


def admission(turn: Turn) -> Turn:
    """Gate: states Admitted, and holds the pods back while there is no quota."""
    queue = turn.seen.queue
    if queue is None:
        return turn
    if turn.rest is not None:
        return turn.stating(_at_rest(queue, turn.rest))
    if turn.status.active_since is not None and success(turn) is not None:
        return turn.stating(Fact(ConditionType.ADMITTED, "True", Reason.QUOTA_GRANTED, "until it has ended"))
    if queue.problem:
        turn = turn.due_in(ASK_AGAIN_S)
    fact = _fact(turn, queue)
    if fact.status == "True":
        return turn.stating(fact)
    return _told(replace(turn, rest=fact).stating(fact), fact)


def is_outdated(turn: Turn, workload: Workload) -> bool:
    """Whether it asks for another number of pods; not while the job is about to end."""
    if workload.pods == pods_wanted(turn.seen.job):
        return False
    runs = turn.status.active_since is not None
    return not (runs and any(m.pod and m.pod.phase == "Succeeded" for m in members(turn.seen, turn.status)))


def _fact(turn: Turn, queue: Queue) -> Fact:
    kind, job, workload = ConditionType.ADMITTED, turn.seen.job, queue.workload
    if queue.problem and turn.status.active_since is not None:
        return Fact(kind, "True", Reason.QUOTA_GRANTED, f"as it was last; {queue.problem}")
    if queue.problem:
        return Fact(kind, "False", Reason.WAITING_FOR_QUOTA, queue.problem)
    asks = f"LocalQueue {job.spec.scheduling.queue} is asked for {pods_wanted(job)} pods"
    if workload is None or workload.finished:
        return Fact(kind, "False", Reason.WAITING_FOR_QUOTA, asks)
    if not workload.active:
        remedy = f"spec.active of Workload {workload.name} is false; it is admitted again once that is true"
        return Fact(kind, "False", Reason.EVICTED_BY_QUEUE, remedy)
    if workload.evicted:
        return Fact(kind, "False", Reason.EVICTED_BY_QUEUE, f"{workload.evicted}: {workload.message}")
    if is_outdated(turn, workload):
        return Fact(kind, "False", Reason.WAITING_FOR_QUOTA, f"{asks}, instead of {workload.pods}")
    if not workload.admitted:
        return Fact(kind, "False", Reason.WAITING_FOR_QUOTA, workload.message or asks)
    return Fact(kind, "True", Reason.QUOTA_GRANTED, f"Workload {workload.name} is admitted")


def _at_rest(queue: Queue, rest: Fact) -> Fact:
    """A job that rests for another reason keeps its quota as long as pods are going, and then gives it back."""
    if queue.workload is not None and queue.workload.admitted:
        return Fact(ConditionType.ADMITTED, "True", Reason.QUOTA_GRANTED, "until all of its pods are gone")
    return Fact(ConditionType.ADMITTED, "False", rest.reason, "the job asks for no quota")


def _told(turn: Turn, fact: Fact) -> Turn:
    """Announces that the wait begins, and why."""
    before = fact_of(turn.seen.job.status.conditions, ConditionType.ADMITTED)
    if before is not None and before.status == "False" and before.reason == fact.reason:
        return turn
    evicted = fact.reason == Reason.EVICTED_BY_QUEUE
    return turn.announcing(Event("Warning" if evicted else "Normal", fact.reason, fact.message))
