"""Policy: the claim for checkpoints. VolumeUsable says whether it is the job's to use, and can be shared by its workers.

    a claim that isn't the job's, goes away or can't be shared -> no run begins; it ends by itself when that is mended
    one that may not do, or isn't there yet                    -> it is told, and the scheduler has the word

Rules
- A job that runs is never stopped for it. It gets no new pods on a claim that isn't its own.
- Nothing is stated about a claim that was not looked at: what was said of it last stands.
"""

from __future__ import annotations

from deepseek_operator.api.conditions import Fact, Truth, fact_of
from deepseek_operator.api.names import ConditionType, Reason
from deepseek_operator.api.v1alpha1 import DeepSeekJob, Status
from deepseek_operator.decide.claims import claim_change, in_the_way
from deepseek_operator.decide.held import waits
from deepseek_operator.decide.sharing import Problem, sharing
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Claim, Event, Held, Observation
from deepseek_operator.render.claims import other_claim, own_claim, template_of


def storage(turn: Turn) -> Turn:
    """Gate: states VolumeUsable, and lets no run begin on a claim that can't serve it."""
    name = own_claim(turn.seen.job)
    if name is None:
        return turn.stating(_fact("False", Reason.NOT_USED))
    why, fact = _judged(turn.seen, turn.status, name)
    if fact is None:
        return turn
    turn = turn.stating(fact)
    if why is not None and turn.rest is None and turn.status.active_since is None:
        return waits(turn, why)
    before = fact_of(turn.seen.job.status.conditions, ConditionType.VOLUME_USABLE)
    if fact.status != "False" or fact.reason == Reason.VOLUME_NOT_FOUND or (before and before.reason == fact.reason):
        return turn
    return turn.announcing(Event("Warning", fact.reason, fact.message))


def is_settled(job: DeepSeekJob, claim: Claim) -> bool:
    """Whether nothing is to be done or said about the job's own claim, so that it needn't be looked at soon again."""
    if template_of(job) is not None:
        return in_the_way(job, claim, job.status) is None and claim_change(job, claim) is None
    problem = sharing(job, claim)
    return problem is None or not problem.refused


def _judged(seen: Observation, status: Status, name: str) -> tuple[Held | None, Fact | None]:
    """Why no run may begin, and the condition; None for either: nothing.

    Args:
        name: of the job's own claim.
    """
    job, claims = seen.job, seen.claims
    if claims is None:
        return None, _fact("True", Reason.AS_EXPECTED)
    if name not in claims:
        return _unread(name) if template_of(job) is not None else (None, None)
    why = in_the_way(job, claims[name], status)
    if why is not None:
        return why, _fact("False", why.reason, why.message)
    problem = _worst(job, claims[name], claims.get(other_claim(job) or ""))
    if problem is not None:
        why = Held(problem.reason, problem.message) if problem.refused else None
        return why, _fact("False", problem.reason, problem.message)
    return None, _as_it_is(job, name, claims[name])


def _worst(job: DeepSeekJob, own: Claim | None, other: Claim | None) -> Problem | None:
    """What is wrong with sharing the job's claim, or the one that it begins with."""
    found = [sharing(job, own)] if own is not None else []
    found += [sharing(job, other, reads=True)] if other is not None else []
    problems = [problem for problem in found if problem is not None]
    return min(problems, key=lambda problem: not problem.refused, default=None)


def _as_it_is(job: DeepSeekJob, name: str, claim: Claim | None) -> Fact:
    if claim is not None:
        return _fact("True", Reason.AS_EXPECTED, f"claim {name} is {' and '.join(claim.access_modes)}")
    if template_of(job) is not None:
        return _fact("Unknown", Reason.VOLUME_NOT_FOUND, f"claim {name} is made when the job starts")
    return _fact("False", Reason.VOLUME_NOT_FOUND, f"there is no claim {name}; create it, and the pods start")


def _unread(name: str) -> tuple[Held, Fact]:
    message = (
        f"the operator may not read claim {name}, so that it can't tell whose it is; let its service account get, create and "
        "patch persistentvolumeclaims (the chart's value rbac.claims)"
    )
    return Held(Reason.VOLUME_NOT_CHECKED, message), _fact("Unknown", Reason.VOLUME_NOT_CHECKED, message)


def _fact(status: Truth, reason: Reason | str, message: str = "") -> Fact:
    return Fact(ConditionType.VOLUME_USABLE, status, str(reason), message)
