"""Policy: the head of the job's Ray cluster. Nothing of the job's own follows from what becomes of it.

    a run begins -> head N is asked for -> seen -> ready
                                            └─ ended, deleted, gone, on a lost node -> head N+1, restarts+1
    the run ends -> the next run's head has another number

Rules
- A head is replaced at once, unless it was asked for less than ten seconds ago; this is doubled for each one in a row that was
  lost before it was ready. It costs no budget, and makes no generation.
- The number is raised before the pod is created, so that a replacement never waits for a pod stuck in Terminating.
"""

from __future__ import annotations

from deepseek_operator.api.conditions import Fact, Truth, parse_time
from deepseek_operator.api.names import ConditionType, Reason
from deepseek_operator.api.status import RayStatus, Status
from deepseek_operator.decide.gang import members
from deepseek_operator.decide.readiness import obstacle
from deepseek_operator.decide.report import TEXT_MAX, clean
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Event, Observation, Pod
from deepseek_operator.render.identity import head_name

PAUSE_S = 10.0
PAUSE_MAX_S = 300.0
SHOWN = 5
"""Workers without a raylet that are named."""


def ray(turn: Turn) -> Turn:
    """Looks after the head, and states RayReady."""
    if turn.seen.job.spec.ray is None:
        return turn.stating(_fact("False", Reason.NOT_USED))
    if turn.over:
        return _left(turn).stating(_fact("False", Reason.FINISHED))
    turn = _begun(turn)
    head = present_head(turn.seen, turn.status)
    if head is not None and head.ready and not _is_lost(head):
        turn = _with(turn, seen=True, unready=0)
        return turn.stating(_with_raylets(turn))
    if head is not None and not _is_lost(head):
        return _with(turn, seen=True).stating(_coming(turn, head))
    if head is None and not (turn.status.ray or RayStatus()).seen:
        return turn.stating(_fact("False", Reason.RAY_HEAD_STARTING))
    return _lost(turn, head)


def ray_at_rest(turn: Turn) -> Turn:
    """A job without pods has no head."""
    if turn.seen.job.spec.ray is None:
        return turn.stating(_fact("False", Reason.NOT_USED))
    return _left(turn).stating(_fact("False", turn.rest.reason if turn.rest is not None else Reason.FINISHED))


def present_head(seen: Observation, status: Status) -> Pod | None:
    """The pod of the head that the status names."""
    if status.ray is None:
        return None
    name = head_name(seen.job.metadata.name, status.ray.head)
    return next((pod for pod in seen.heads if pod.name == name), None)


def _begun(turn: Turn) -> Turn:
    """A head is asked for when a run begins, and when there are heads that the status could not have asked for."""
    now = turn.status.ray or RayStatus()
    newest = max((pod.incarnation for pod in turn.seen.heads), default=-1)
    if now.since is not None and newest <= now.head:
        return turn
    head = newest + 1 if newest > now.head or (turn.status.ray is None and newest >= 0) else now.head
    return _with(turn, head=head, seen=False, since=turn.now)


def _left(turn: Turn) -> Turn:
    """The run is over. Its head is told to go, and its number isn't used again."""
    now = turn.status.ray
    if now is None or now.since is None:
        return turn
    return _with(turn, head=now.head + 1, seen=False, since=None, unready=0)


def _lost(turn: Turn, head: Pod | None) -> Turn:
    now = turn.status.ray or RayStatus()
    why = _why(head, head_name(turn.seen.job.metadata.name, now.head))
    if (left_s := _left_s(turn, now)) > 0:
        waits = f"{why}; its successor is put off for a while, because it didn't last"
        return turn.due_in(left_s).stating(_fact("False", Reason.RAY_HEAD_LOST, waits))
    message = f"{why}; training goes on without it until its successor is ready"
    return (
        _with(
            turn,
            head=now.head + 1,
            seen=False,
            since=turn.now,
            restarts=now.restarts + 1,
            unready=now.unready + 1,
        )
        .stating(_fact("False", Reason.RAY_HEAD_LOST, message))
        .announcing(Event("Warning", Reason.RAY_HEAD_LOST, message))
    )


def _left_s(turn: Turn, now: RayStatus) -> float:
    """Until the next head may be asked for; a clock that went back is not waited for."""
    since = parse_time(now.since)
    age_s = (turn.seen.now - since).total_seconds() if since is not None else PAUSE_MAX_S
    pause_s = min(PAUSE_MAX_S, PAUSE_S * 2.0 ** min(now.unready, 8))
    return pause_s - age_s if age_s >= 0 else 0.0


def _is_lost(head: Pod) -> bool:
    return head.terminating or head.unreachable or head.phase in ("Succeeded", "Failed")


def _why(head: Pod | None, name: str) -> str:
    if head is None:
        return f"pod {name}, the head of Ray, is gone"
    if head.phase in ("Succeeded", "Failed"):
        status = "" if head.exit_code is None else f" with exit status {head.exit_code}"
        words = clean(head.message, TEXT_MAX)
        return f"pod {name}, the head of Ray, ended{status}" + (f": {words}" if words else "")
    return f"pod {name}, the head of Ray, {'is being deleted' if head.terminating else 'is on a lost node'}"


def _coming(turn: Turn, head: Pod) -> Fact:
    reason = obstacle(head)
    words = f"{head.name}: {head.reason}: {clean(head.message, TEXT_MAX)}" if reason else f"{head.name} is not ready"
    return _fact("False", reason or Reason.RAY_HEAD_STARTING, words)


def _with_raylets(turn: Turn) -> Fact:
    """The head is ready; what of the others?"""
    gang = [member for member in members(turn.seen, turn.status) if member.pod is not None]
    running = [member for member in gang if member.pod is not None and member.pod.phase == "Running"]
    without = [str(member.slot) for member in running if member.pod is not None and member.pod.raylet is False]
    if without:
        more = f" and {len(without) - SHOWN} more" if len(without) > SHOWN else ""
        message = f"no raylet runs beside worker {', '.join(without[:SHOWN])}{more}"
        return _fact("False", Reason.RAYLET_MISSING, message)
    return _fact("True", Reason.RAY_READY)


def _fact(status: Truth, reason: str, message: str = "") -> Fact:
    return Fact(ConditionType.RAY_READY, status, reason, message)


def _with(turn: Turn, **fields: object) -> Turn:
    """With other values in status.ray."""
    before = turn.status.ray or RayStatus()
    after = before.model_copy(update=fields)
    return turn if after == turn.status.ray else turn.changed(ray=after)
