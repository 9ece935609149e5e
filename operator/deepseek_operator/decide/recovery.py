"""Policy: a lost member is answered by the next generation, or by giving up.

    loss seen -> status: generation+1, attempt+1, incarnation+1 of each slot to be replaced, its master
              -> then pods: replacements are created with their membership, survivors are patched

Rules
- All losses of one observation make one generation and are charged once: to the cluster if it took any of them,
  else to the worker. Losses to the cluster cost no budget, and neither does the aftermath of an earlier loss.
- A member that has already succeeded can't train again, so it is replaced with the others; the restart goes back
  to a checkpoint and it would be missed.
- After three restarts within a minute each further one waits ten seconds after the one before. What is lost stays
  lost meanwhile, so nothing but the moments of the last failures needs to be remembered.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from deepseek_operator.api.conditions import Fact, parse_time
from deepseek_operator.api.names import ConditionType, Reason
from deepseek_operator.api.v1alpha1 import Restarts
from deepseek_operator.decide.ending import failed, remembered
from deepseek_operator.decide.gang import Member, members
from deepseek_operator.decide.generation import next_generation
from deepseek_operator.decide.losses import Cause, Loss, loss_of
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Event

BURST = 3
BURST_WINDOW = timedelta(seconds=60)
PAUSE = timedelta(seconds=10)

_GRAVITY = (Cause.CLUSTER, Cause.WORKER, Cause.UNREACHABLE, Cause.AFTERMATH)
"""Which cause a restart is charged to when several are seen together: the first of these."""


def recovery(turn: Turn) -> Turn:
    """Restarts the gang on the next generation if a member is lost and the budget allows it."""
    gang = members(turn.seen, turn.status)
    losses = [loss for member in gang if (loss := loss_of(member, turn.status))]
    if turn.over or not losses:
        return turn
    losses.sort(key=lambda loss: (_GRAVITY.index(loss.cause), loss.member.slot))
    restarts = _charged(turn.status.restarts, losses[0].cause)
    limit = turn.seen.job.spec.recovery.budgets.application
    if restarts.application > limit:
        return failed(turn, Reason.RESTART_LIMIT, f"{limit} restarts were not enough: {losses[0].sentence()}", losses)
    pause_s = _pause_s(turn)
    if pause_s > 0:
        return replace(turn, wait_s=pause_s)
    return _next_generation(turn, gang, losses, restarts)


def _charged(restarts: Restarts, cause: Cause) -> Restarts:
    if cause in (Cause.WORKER, Cause.UNREACHABLE):
        return restarts.model_copy(update={"application": restarts.application + 1})
    return restarts.model_copy(update={"infrastructure": restarts.infrastructure + 1})


def _pause_s(turn: Turn) -> float:
    """Seconds until the next restart may begin; 0 or less: now."""
    moments = {parse_time(failure.time) for failure in turn.status.failures}
    recent = [moment for moment in moments if moment and timedelta(0) <= turn.seen.now - moment < BURST_WINDOW]
    if len(recent) < BURST:
        return 0.0
    return (max(recent) + PAUSE - turn.seen.now).total_seconds()


def _next_generation(turn: Turn, gang: tuple[Member, ...], losses: list[Loss], restarts: Restarts) -> Turn:
    lost = {loss.member.slot for loss in losses}
    succeeded = {member.slot for member in gang if member.pod and member.pod.phase == "Succeeded"}
    on_worker = losses[0].cause in (Cause.WORKER, Cause.UNREACHABLE)
    reason = Reason.WORKER_FAILED if on_worker else Reason.WORKER_LOST
    message = losses[0].sentence() + (f", and {len(losses) - 1} more" if len(losses) > 1 else "")
    return (
        next_generation(turn, lost | succeeded, len(gang))
        .changed(
            restarts=restarts,
            total_restarts=restarts.application + restarts.infrastructure,
            failures=remembered(turn, losses),
        )
        .stating(Fact(ConditionType.RESTARTING, "True", reason, message))
        .announcing(Event("Warning", reason, message))
    )
