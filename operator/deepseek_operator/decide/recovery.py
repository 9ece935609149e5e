"""Policy: a lost member, or a hang, is answered by the next generation, or by giving up.

    loss seen -> status: generation+1, attempt+1, incarnation+1 of each slot to be replaced, its master
              -> then pods: replacements are created with their membership, survivors are patched (`generation`)

Rules
- All losses of one observation make one generation and are charged once, to the gravest (`losses.GRAVITY`).
- It is given up when the budget of that cause is spent (`budgets`), or when restarts bring nothing (`headway`).
- A restart may have to wait (`backoff`). Losses of the job's own are put on record as soon as they are seen, and the
  first ones on record say what it is charged to and from when it waits: nothing that happens meanwhile changes that.
  Others are put on record when the restart begins: by those moments a burst of them is known.
- When all that are lost were told to end, and can still save, the generation is planned (`leaving`).
- A member that has already succeeded can't train again, so it is replaced with the others; the restart goes back
  to a checkpoint and it would be missed. So are members on a node that has just become avoided (`exclusion`).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from deepseek_operator.api.conditions import Fact, rfc3339
from deepseek_operator.api.names import Cause, ConditionType, Reason
from deepseek_operator.api.v1alpha1 import Status
from deepseek_operator.decide.backoff import NOT_ITS_OWN, due
from deepseek_operator.decide.budgets import charged, overdrawn, total
from deepseek_operator.decide.ending import failed, remembered
from deepseek_operator.decide.exclusion import PREFLIGHT, excluded_nodes, excluding
from deepseek_operator.decide.gang import members
from deepseek_operator.decide.generation import next_generation, succession
from deepseek_operator.decide.hang import hung
from deepseek_operator.decide.headway import counted, standstill
from deepseek_operator.decide.leaving import leaving
from deepseek_operator.decide.losses import Loss, gravest_first, losses_of, recorded
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Event


def recovery(turn: Turn) -> Turn:
    """Restarts the gang on the next generation if a member is lost and the policies allow it."""
    if turn.over:
        return turn
    losses = gravest_first([leaving(turn, loss) for loss in losses_of(turn)]) or hung(turn)
    if not losses:
        return turn
    cause = _charged_to(turn.status, losses)
    culprit = next((loss for loss in losses if loss.cause == cause), losses[0])
    spec = turn.seen.job.spec.recovery
    if spent := overdrawn(spec.budgets, turn.status.restarts, cause):
        return failed(turn, Reason.RESTART_LIMIT, f"{spent}; the last failure: {culprit.sentence()}", losses)
    if stuck := standstill(turn, cause):
        return failed(turn, Reason.NO_PROGRESS, f"{stuck}; the last failure: {culprit.sentence()}", losses)
    begin = due(turn, cause)
    if begin > turn.seen.now:
        recorded_now = turn if cause in NOT_ITS_OWN else turn.changed(failures=remembered(turn, losses))
        return _put_off(recorded_now, culprit, begin)
    return _next_generation(turn, cause, culprit, losses)


def _charged_to(status: Status, losses: list[Loss]) -> Cause:
    """The gravest of the losses that were seen first."""
    seen_before = recorded(status)
    first = next((loss for loss in losses if seen_before and loss.member.name == seen_before[0].pod), losses[0])
    return first.cause


def _put_off(turn: Turn, culprit: Loss, begin: datetime) -> Turn:
    """The restart comes when its time has come."""
    message = f"{culprit.sentence()}; the next restart begins at {rfc3339(begin)}"
    waiting = replace(turn, wait_s=(begin - turn.seen.now).total_seconds())
    return waiting.stating(Fact(ConditionType.RESTARTING, "True", _reason(culprit), message))


def _next_generation(turn: Turn, cause: Cause, culprit: Loss, losses: list[Loss]) -> Turn:
    turn = excluding(turn.changed(failures=remembered(turn, losses)), losses)
    gang, avoided = members(turn.seen, turn.status), excluded_nodes(turn.status)
    lost = {loss.member.slot for loss in losses if loss.replaced}
    unfit = {m.slot for m in gang if m.pod and (m.pod.phase == "Succeeded" or m.pod.node in avoided)}
    planned = all(loss.leaves for loss in losses) and not unfit - lost
    restarts = charged(turn.status.restarts, cause)
    reason = _reason(culprit)
    message = culprit.sentence() + (f", and {len(losses) - 1} more" if len(losses) > 1 else "")
    return (
        next_generation(turn, succession(turn, lost | unfit), lost | unfit, planned=planned)
        .changed(restarts=restarts, total_restarts=total(restarts), **counted(turn, cause))
        .stating(Fact(ConditionType.RESTARTING, "True", reason, message))
        .announcing(Event("Warning", reason, message))
    )


def _reason(culprit: Loss) -> Reason:
    if culprit.reason == PREFLIGHT:
        return Reason.PREFLIGHT_FAILED
    if culprit.cause == Cause.HANG:
        return Reason.HANG
    return Reason.WORKER_LOST if culprit.cause in NOT_ITS_OWN else Reason.WORKER_FAILED
