"""Policy: which nodes new pods keep away from, and until when.

| evidence | the node is avoided |
| --- | --- |
| a failed preflight names it, and a member is on it | at once |
| a member is lost with it: the scheduler takes 40 s to notice | at once, for `LOST_S` |
| recovery.nodeExclusion.failures attempts within the cooldown ended there by Accelerator, Communication or Hang | then |

Rules
- A hang that the agents healed in place counts as an attempt (`healing`).
- Broken collectives are blamed on a node only when it was the only one that failed: else everybody's peer is dead, and
  nobody knows whose. For the same reason a preflight that names every node of a gang says nothing.
- When a node becomes avoided, members that still run on it are replaced with the next generation.
- What a pod keeps away from is fixed when it is made. So an exclusion whose time is over is only dropped when nobody waits
  for room on account of it, or together with making those pods anew (`replanting`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta

from deepseek_operator.api.conditions import parse_time, rfc3339
from deepseek_operator.api.names import Cause, Reason
from deepseek_operator.api.v1alpha1 import Exclusion, FailureStatus, Status
from deepseek_operator.decide.gang import Member, candidates, members
from deepseek_operator.decide.losses import NODE_LOST, Loss
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Event

EXCLUDED_MAX = 64
LOST_S = 90
"""By then the control plane has marked a node that is lost."""
PREFLIGHT = "PreflightFailed"
NO_ROOM = ("Unschedulable", "SchedulerError")
"""Reasons of a pod that no node was found for."""
_OF_ONE_NODE = (Cause.COMMUNICATION, Cause.HANG)


def exclusion(turn: Turn) -> Turn:
    """Drops the exclusions whose time is over, if nobody waits for them."""
    kept = lasting(turn)
    if len(kept) == len(turn.status.excluded_nodes) or (not turn.over and without_room(turn)):
        return turn
    return turn.changed(excluded_nodes=kept)


def lasting(turn: Turn) -> list[Exclusion]:
    """The exclusions whose time is not over."""
    return [e for e in turn.status.excluded_nodes if (until := parse_time(e.until)) and until > turn.seen.now]


def without_room(turn: Turn) -> list[Member]:
    """Members and candidates that no node was found for."""
    everybody = (*members(turn.seen, turn.status), *candidates(turn.seen, turn.status))
    return [m for m in everybody if m.pod and m.pod.phase == "Pending" and not m.pod.node and m.pod.reason in NO_ROOM]


def excluding(turn: Turn, losses: list[Loss]) -> Turn:
    """Adds the nodes that these losses, and those on record (status.failures has both), speak against."""
    recovery = turn.seen.job.spec.recovery.node_exclusion
    lost = {loss.node: "it doesn't answer" for loss in losses if loss.reason == NODE_LOST and loss.node}
    reasons = {
        node: f"{count} failures within {recovery.cooldown_seconds} s"
        for node, count in _failures_by_node(turn, recovery.cooldown_seconds).items()
        if count >= recovery.failures
    } | {node: "named by the preflight check" for node in _named_by_preflight(turn, losses)}
    fresh = [(node, reason, recovery.cooldown_seconds) for node, reason in sorted(reasons.items())]
    fresh += [(node, reason, LOST_S) for node, reason in sorted(lost.items()) if node not in reasons]
    before = {entry.node: entry for entry in turn.status.excluded_nodes}
    new = {node: _until(turn, seconds, node, reason) for node, reason, seconds in fresh}
    news = [new[node] for node in new if node not in before]
    if not news:
        return turn
    entries = sorted((before | new).values(), key=lambda entry: (entry.until, entry.node))[-EXCLUDED_MAX:]
    told = ", ".join(f"{entry.node} ({entry.reason}) until {entry.until}" for entry in news)
    message = f"new pods keep away from {told}"
    return turn.changed(excluded_nodes=entries).announcing(Event("Warning", Reason.NODE_EXCLUDED, message))


def _until(turn: Turn, seconds: int, node: str, reason: str) -> Exclusion:
    return Exclusion(node=node, until=rfc3339(turn.seen.now + timedelta(seconds=seconds)), reason=reason)


def excluded_nodes(status: Status) -> tuple[str, ...]:
    """Names of the nodes that new pods keep away from."""
    return tuple(sorted(entry.node for entry in status.excluded_nodes))


def _failures_by_node(turn: Turn, cooldown_s: int) -> dict[str, int]:
    """Attempts, and rounds that the agents made a new start of, that ended by a fault of the node."""
    window = timedelta(seconds=cooldown_s)
    by_attempt: dict[tuple[int, int | None], list[FailureStatus]] = defaultdict(list)
    for failure in turn.status.failures:
        moment = parse_time(failure.time)
        if moment is not None and turn.seen.now - moment < window and failure.reason != PREFLIGHT:
            by_attempt[failure.attempt, failure.round].append(failure)
    counts: dict[str, int] = defaultdict(int)
    for failures in by_attempt.values():
        for node in _blamed(failures):
            counts[node] += 1
    return counts


def _blamed(failures: Iterable[FailureStatus]) -> set[str]:
    """The nodes that one attempt's failures speak against."""
    failures = list(failures)
    broken = {failure.node for failure in failures if failure.cause == Cause.ACCELERATOR}
    unclear = {failure.node for failure in failures if failure.cause in _OF_ONE_NODE}
    return {node for node in (broken | unclear if len(unclear) == 1 else broken) if node}


def _named_by_preflight(turn: Turn, losses: list[Loss]) -> set[str]:
    """Only nodes of this very gang: a pod's words can't keep the job away from others."""
    here = {member.pod.node for member in members(turn.seen, turn.status) if member.pod and member.pod.node}
    named = {node for loss in losses for node in loss.bad_nodes} & here
    return set() if len(here) > 1 and named == here else named
