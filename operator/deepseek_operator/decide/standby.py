"""Policy: the pods of the candidates, which are in no generation: those that an elastic job lacks, and the spares.

    wanted -> created, without a membership -> seen: standby -> ready -> joins (`resizing`, `recovery`, `assembly`)
                                                 └─ ended, deleted, gone, on an avoided node -> incarnation+1, a new pod

Rules
- Nothing is lost with a candidate, nothing is charged, and nobody waits for it.
- A pod that was seen is never created again under its name. New ones are made at most each `RENEW_S`.
- Who is wanted no more is deleted, and its slot's next pod has another name.
"""

from __future__ import annotations

from deepseek_operator.api.conditions import parse_time
from deepseek_operator.decide.exclusion import excluded_nodes
from deepseek_operator.decide.gang import candidates, incarnation_of, is_fit, slots
from deepseek_operator.decide.turn import Turn

RENEW_S = 30.0


def standby(turn: Turn) -> Turn:
    """Notes which candidates have pods, and replaces those that won't come up."""
    if turn.over:
        return turn
    status, avoided = turn.status, excluded_nodes(turn.status)
    waiting = candidates(turn.seen, status)
    known = {member.slot for member in waiting if member.pod is not None or member.slot in status.standby}
    spent = {m.slot for m in waiting if m.slot in known and (m.pod is None or not is_fit(m.pod, avoided))}
    dismissed = set(status.standby) - {member.slot for member in waiting} - set(slots(turn.seen.job, status))
    if spent and (left_s := _left_s(turn)) > 0:
        turn, spent = turn.due_in(left_s), set()
    if spent:
        turn = turn.changed(renewed_at=turn.now)
    return _with(turn, sorted(known - spent), raised=spent | dismissed)


def _left_s(turn: Turn) -> float:
    """Until pods may be replaced again; a clock that went back is not waited for."""
    last = parse_time(turn.status.renewed_at)
    age_s = (turn.seen.now - last).total_seconds() if last is not None else RENEW_S
    return RENEW_S - age_s if age_s >= 0 else 0.0


def _with(turn: Turn, known: list[int], raised: set[int]) -> Turn:
    status = turn.status
    if known == status.standby and not raised:
        return turn
    incarnations = {str(slot): incarnation_of(status, slot) + 1 for slot in sorted(raised)}
    return turn.changed(standby=known, incarnations=status.incarnations | incarnations)
