"""Policies: a generation comes together, or goes on without those for whom there is no room.

    generation begins: assemblingSince ── all members were ready once ──► absent: it is whole
       ├─ each member that lacks is held up, and as many candidates are ready ──► they take its place
       └─ elastic.shrinkAfterSeconds, elastic.minReplicas of them are ready   ──► the next generation has those alone

Rules
- Nobody trains in a generation that isn't whole, so nothing is lost by leaving it. It counts in attempt and in
  restarts.resize, and in no budget.
- Who is left out becomes a candidate: its pod stays, is told that it is in no generation, and joins again when it is
  ready (`resizing`).
- A member that has succeeded waits for nobody: the job is about to end.
"""

from __future__ import annotations

from datetime import timedelta

from deepseek_operator.api.conditions import Fact, parse_time
from deepseek_operator.api.names import ConditionType, Reason
from deepseek_operator.decide.budgets import resized
from deepseek_operator.decide.exclusion import excluded_nodes
from deepseek_operator.decide.gang import Member, is_present, is_ranked, members, slots, wanted_size
from deepseek_operator.decide.generation import next_generation, ready_candidates
from deepseek_operator.decide.readiness import obstacle, waited_for
from deepseek_operator.decide.topology import by_place
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Event


def assembly(turn: Turn) -> Turn:
    """Notes that all members were ready."""
    if turn.status.assembling_since is None or turn.next_generation:
        return turn
    whole = all(is_present(member) for member in members(turn.seen, turn.status))
    return turn.changed(assembling_since=None, assembled_at=turn.now) if whole else turn


def shrinking(turn: Turn) -> Turn:
    """Goes on with those that are ready, when the others have no room."""
    elastic, since = turn.seen.job.spec.elastic, parse_time(turn.status.assembling_since)
    if since is None or turn.over or turn.next_generation or turn.wait_s is not None:
        return turn
    gang = members(turn.seen, turn.status)
    if any(member.pod is not None and member.pod.phase == "Succeeded" for member in gang):
        return turn
    lacking = [member for member in gang if not is_present(member)]
    room = wanted_size(turn.seen, turn.status) - len(gang) + len(lacking)
    joining = ready_candidates(turn)[:room]
    if lacking and len(joining) >= len(lacking) and all(_is_held_up(member) for member in lacking):
        return _goes_on(turn, lacking, joining)
    if elastic is None:
        return turn
    size = len(gang) - len(lacking) + len(joining)
    if not lacking or elastic.shrink_after_seconds is None or size < elastic.min_replicas:
        return turn
    left_s = (since + timedelta(seconds=elastic.shrink_after_seconds) - turn.seen.now).total_seconds()
    return turn.due_in(left_s) if left_s > 0 else _goes_on(turn, lacking, joining)


def _is_held_up(member: Member) -> bool:
    return member.pod is not None and bool(obstacle(member.pod))


def _goes_on(turn: Turn, lacking: list[Member], joining: list[Member]) -> Turn:
    absent = {member.slot for member in lacking}
    present = [slot for slot in slots(turn.seen.job, turn.status) if slot not in absent]
    order = [*present, *(member.slot for member in joining)]
    if not is_ranked(turn.seen.job, turn.status):
        order = by_place(turn, order)
    wanted = wanted_size(turn.seen, turn.status)
    missing = waited_for(tuple(lacking), excluded_nodes(turn.status))
    message = f"goes on with {len(order)} of {wanted} workers: {missing}"
    return (
        next_generation(turn, order)
        .changed(restarts=resized(turn.status.restarts))
        .stating(Fact(ConditionType.RESTARTING, "True", Reason.RESIZED, message))
        .announcing(Event("Warning", Reason.RESIZED, message))
    )
