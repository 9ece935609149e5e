"""Policy: when the step last grew, and what is taken for a hang.

    first step of a generation ── no step while the phase is training, for hangTimeoutSeconds ──► hang
                               └─ no answer from node rank 0,          for hangTimeoutSeconds ──► hang
                                  the kubelet hears nothing either,    for hangFloorSeconds   ──► hang
    its peers say that an agent is silent, and neither the kubelet nor the operator hears it ──► hang, at once

Rules
- What peers say of an agent is only a reason to ask it: without silence of its own it is believed to be alive.
- A hang is answered by the next generation for all: the agents kill their training processes and start them anew.
  Members whose agents don't answer either are replaced, because they would not hear of it.
- A user's script that reports no step can't be seen to hang. Phases without steps (preparing, evaluating,
  checkpointing) take the time they take; the clock begins anew when training goes on.
- The moments are written together with the progress, so that watching costs no writes.
"""

from __future__ import annotations

from datetime import timedelta

from deepseek_operator.api.conditions import parse_time
from deepseek_operator.api.names import Cause
from deepseek_operator.decide.gang import Member, members, rank_zero
from deepseek_operator.decide.losses import Loss
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Progress

TRAINING = "training"
FLOOR_S = 60
"""The floor where the job names none, as the agents have it."""


def hang(turn: Turn) -> Turn:
    """Notes that the step has grown, or that nobody answers."""
    if turn.report is not None:
        moved = _moved(turn, turn.report)
        return turn.changed(unheard_since=None, stepped_at=turn.now if moved else turn.status.stepped_at)
    if turn.seen.unanswered and turn.status.stepped_at is not None and turn.status.unheard_since is None:
        return turn.changed(unheard_since=turn.now)
    return turn


def hung(turn: Turn) -> list[Loss]:
    """What a hang is charged to, and who is replaced for it; empty when there is none."""
    if accused := _accused(turn):
        message = "its agent answers neither its peers nor the operator, and nobody can train without it"
        return [Loss(m, Cause.HANG, "NoAnswer", message, node=m.pod.node if m.pod else None) for m in accused]
    left_s = left_until_hang_s(turn)
    if left_s is None or left_s > 0:
        return []
    timeout_s = _patience_s(turn)
    silent = _silent(turn)
    if silent:
        message = f"no sign of a step for {timeout_s} s, and its agent doesn't answer"
        return [Loss(m, Cause.HANG, "NoAnswer", message, node=m.pod.node if m.pod else None) for m in silent]
    gang = members(turn.seen, turn.status)
    first = rank_zero(turn.seen, turn.status)
    step = turn.report.step if turn.report is not None else None
    message = f"no step after step {step} for {timeout_s} s"
    node = first.pod.node if first.pod is not None and len(gang) == 1 else None
    return [Loss(first, Cause.HANG, "NoStep", message, node=node, replaced=False)]


def left_until_hang_s(turn: Turn) -> float | None:
    """Seconds until the standstill is taken for a hang; None while nothing stands still."""
    since = parse_time(_still_since(turn))
    if since is None or turn.over:
        return None
    return (since + timedelta(seconds=_patience_s(turn)) - turn.seen.now).total_seconds()


def _patience_s(turn: Turn) -> int:
    """Seconds of standstill that are taken for a hang.

    An agent answers whatever its training processes do. Where the operator and the kubelet both hear nothing, the pod is
    frozen, and there is no phase to wait for.
    """
    recovery, first = turn.seen.job.spec.recovery, rank_zero(turn.seen, turn.status).pod
    if turn.report is None and first is not None and first.phase == "Running" and not first.ready:
        return min(recovery.hang_timeout_seconds, recovery.hang_floor_seconds or FLOOR_S)
    return recovery.hang_timeout_seconds


def accused_by(report: Progress | None) -> str:
    """The pod whose agent the others wait for in vain, by one of them; empty when there is none."""
    last = report.hangs[-1] if report is not None and report.hangs else None
    if report is None or last is None or last.reason != "silent":
        return ""
    return last.pod if (last.generation, last.round) == (report.generation, report.round) else ""


def _accused(turn: Turn) -> list[Member]:
    """The member that its peers and the operator both find silent."""
    consulted, status = turn.seen.consulted, turn.status
    reports = [report for report in (turn.report, consulted.report if consulted else None) if report is not None]
    named = {accused_by(report) for report in reports if report.generation == status.generation}
    if turn.over or turn.next_generation or not named - {""}:
        return []
    mute = {consulted.pod} if consulted is not None and consulted.silent else set()
    if turn.report is None and turn.seen.unanswered:
        mute.add(rank_zero(turn.seen, status).name)
    return [
        member
        for member in members(turn.seen, status)
        if member.name in named and member.pod is not None and member.pod.phase == "Running"
        if member.name in mute or not member.pod.ready
    ]


def _still_since(turn: Turn) -> str | None:
    status = turn.status
    if status.stepped_at is None or turn.next_generation:
        return None
    if turn.report is not None:
        return status.stepped_at if turn.report.phase == TRAINING else None
    return status.unheard_since if turn.seen.unanswered else None


def _moved(turn: Turn, report: Progress) -> bool:
    """The step is another one than was written last, or training goes on after something else."""
    if report.step is None:
        return False
    if turn.status.stepped_at is None:
        return report.step > (report.resumed_step or 0)
    before = turn.seen.job.status.training
    return before is None or report.step != before.step or (report.phase == TRAINING and before.phase != TRAINING)


def _silent(turn: Turn) -> list[Member]:
    """Running members whose agents answer neither the kubelet's probe nor, of node rank 0, the operator."""
    unheard = rank_zero(turn.seen, turn.status).slot if turn.report is None else None
    return [
        member
        for member in members(turn.seen, turn.status)
        if member.pod is not None and member.pod.phase == "Running" and (not member.pod.ready or member.slot == unheard)
    ]
