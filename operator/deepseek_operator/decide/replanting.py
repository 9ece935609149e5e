"""Policy: a node may be used again, and pods that find no room were made to keep away from it.

    the exclusion's time is over ─┬─ a member finds no room ─────► the next generation, with a new pod in its slot
                                  ├─ a candidate finds no room ──► a new pod in its slot
                                  └─ nobody does ────────────────► it is dropped (`exclusion`)

Rule: what makes the pods anew and what drops the exclusion is one write. A gang that lacks a member doesn't train, so
nothing is lost; it counts in attempt and in restarts.resize, and in no budget.
"""

from __future__ import annotations

from deepseek_operator.api.conditions import Fact
from deepseek_operator.api.names import ConditionType, Reason
from deepseek_operator.decide.budgets import resized
from deepseek_operator.decide.exclusion import lasting, without_room
from deepseek_operator.decide.gang import incarnation_of, slots
from deepseek_operator.decide.generation import next_generation
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Event


def replanting(turn: Turn) -> Turn:
    """Makes pods anew that may go where they could not."""
    kept = lasting(turn)
    if turn.over or turn.next_generation or turn.wait_s is not None or len(kept) == len(turn.status.excluded_nodes):
        return turn
    before, gang = turn.status, slots(turn.seen.job, turn.status)
    stuck = {member.slot for member in without_room(turn)}
    turn = turn.changed(excluded_nodes=kept)
    if beside := sorted(stuck - set(gang)):
        raised = {str(slot): incarnation_of(before, slot) + 1 for slot in beside}
        standby = [slot for slot in before.standby if slot not in stuck]
        turn = turn.changed(incarnations=before.incarnations | raised, standby=standby)
    if not stuck & set(gang):
        return turn
    free = sorted({entry.node for entry in before.excluded_nodes} - {entry.node for entry in kept})
    message = f"{', '.join(free)} may be used again, and workers that find no room are asked for anew"
    return (
        next_generation(turn, gang, stuck & set(gang))
        .changed(restarts=resized(before.restarts))
        .stating(Fact(ConditionType.RESTARTING, "True", Reason.NODE_EXCLUDED, message))
        .announcing(Event("Normal", Reason.NODE_EXCLUDED, message))
    )
