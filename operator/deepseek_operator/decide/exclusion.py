"""Policy: which nodes new pods keep away from, and until when.

| evidence | the node is avoided |
| --- | --- |
| a failed preflight names it, and a member is on it | at once |
| recovery.nodeExclusion.failures attempts within the cooldown ended there by Accelerator, Communication or Hang | then |

Rules
- A hang that the agents healed in place counts as an attempt (`healing`).
- Broken collectives are blamed on a node only when it was the only one that failed: else everybody's peer is dead, and
  nobody knows whose. For the same reason a preflight that names every node of a gang says nothing.
- When a node becomes avoided, members that still run on it are replaced with the next generation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta

from deepseek_operator.api.conditions import parse_time, rfc3339
from deepseek_operator.api.names import Cause, Reason
from deepseek_operator.api.v1alpha1 import Exclusion, FailureStatus, Status
from deepseek_operator.decide.gang import members
from deepseek_operator.decide.losses import Loss
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Event

EXCLUDED_MAX = 64
PREFLIGHT = "PreflightFailed"
_OF_ONE_NODE = (Cause.COMMUNICATION, Cause.HANG)


def exclusion(turn: Turn) -> Turn:
    """Drops the exclusions whose time is over."""
    now = turn.seen.now
    kept = [entry for entry in turn.status.excluded_nodes if (until := parse_time(entry.until)) and until > now]
    return turn if len(kept) == len(turn.status.excluded_nodes) else turn.changed(excluded_nodes=kept)


def excluding(turn: Turn, losses: list[Loss]) -> Turn:
    """Adds the nodes that these losses, and those on record (status.failures has both), speak against."""
    recovery = turn.seen.job.spec.recovery.node_exclusion
    until = rfc3339(turn.seen.now + timedelta(seconds=recovery.cooldown_seconds))
    reasons = {
        node: f"{count} failures within {recovery.cooldown_seconds} s"
        for node, count in _failures_by_node(turn, recovery.cooldown_seconds).items()
        if count >= recovery.failures
    } | {node: "named by the preflight check" for node in _named_by_preflight(turn, losses)}
    before = {entry.node: entry for entry in turn.status.excluded_nodes}
    fresh = {node: Exclusion(node=node, until=until, reason=reason) for node, reason in sorted(reasons.items())}
    news = sorted(fresh.keys() - before.keys())
    if not news:
        return turn
    entries = sorted((before | fresh).values(), key=lambda entry: (entry.until, entry.node))[-EXCLUDED_MAX:]
    told = ", ".join(f"{node} ({reasons[node]})" for node in news)
    message = f"new pods keep away from {told} until {until}"
    return turn.changed(excluded_nodes=entries).announcing(Event("Warning", Reason.NODE_EXCLUDED, message))


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
