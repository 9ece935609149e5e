"""Policy: spec.workers.replicas of an elastic job was changed: the next generation has that many workers.

    more     pods of the new slots are created, the others are told the new world
    fewer    the highest slots are removed and their pods deleted

Rules
- Planned: it counts in attempt and in restarts.resize, and in no budget. The members are told so, and save first.
- A restart because of a lost worker takes the new number with it (`recovery`), and is no second one.
- When a worker has already succeeded the job is about to end, and its size stays.
"""

from __future__ import annotations

from deepseek_operator.api.conditions import Fact
from deepseek_operator.api.names import ConditionType, Reason
from deepseek_operator.decide.gang import members, wanted_size
from deepseek_operator.decide.generation import next_generation
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Event


def resizing(turn: Turn) -> Turn:
    """Takes up the number of workers that the spec of an elastic job asks for."""
    gang, wanted = members(turn.seen, turn.status), wanted_size(turn.seen, turn.status)
    if wanted == len(gang) or turn.over or turn.next_generation or turn.wait_s is not None:
        return turn
    if any(member.pod is not None and member.pod.phase == "Succeeded" for member in gang):
        return turn
    message = f"from {len(gang)} to {wanted} worker{'s' if wanted != 1 else ''}"
    restarts = turn.status.restarts.model_copy(update={"resize": turn.status.restarts.resize + 1})
    return (
        next_generation(turn, (), wanted, planned=True)
        .changed(restarts=restarts)
        .stating(Fact(ConditionType.RESTARTING, "True", Reason.RESIZED, message))
        .announcing(Event("Normal", Reason.RESIZED, message))
    )
