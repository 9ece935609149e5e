"""Policy: spec.workers.replicas of an elastic job was changed, or workers that it lacked have come.

    fewer    at once: the slots that aren't ready, then the highest, are removed and their pods deleted
    more     pods of the new slots come up beside the gang, as candidates; training goes on meanwhile
             -> some are ready, and none of the others is on its way any more -> the next generation has them

Rules
- Planned: it counts in attempt and in restarts.resize, and in no budget. The members are told so, and save first.
- Nothing is stopped for a worker that isn't ready, nor before training makes steps.
- elastic.growPolicy OnRestart: no generation is made for those that have come. Any that comes takes them with it.
- A restart because of a lost worker takes the new number with it (`recovery`), and is no second one.
- When a worker has already succeeded the job is about to end, and its size stays.
"""

from __future__ import annotations

from deepseek_operator.api.conditions import Fact
from deepseek_operator.api.names import ConditionType, Reason
from deepseek_operator.decide.budgets import resized
from deepseek_operator.decide.exclusion import excluded_nodes
from deepseek_operator.decide.gang import candidates, is_fit, members, wanted_size
from deepseek_operator.decide.generation import next_generation, ready_candidates, succession
from deepseek_operator.decide.readiness import obstacle
from deepseek_operator.decide.running import makes_steps
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Event


def resizing(turn: Turn) -> Turn:
    """Brings an elastic job nearer to the number of workers that its spec asks for."""
    gang, wanted = members(turn.seen, turn.status), wanted_size(turn.seen, turn.status)
    if turn.over or turn.next_generation or turn.wait_s is not None:
        return turn
    if any(member.pod is not None and member.pod.phase == "Succeeded" for member in gang):
        return turn
    if wanted >= len(gang) and not _may_grow(turn):
        return turn
    order = succession(turn)
    missing = f"; {wanted - len(order)} more are wanted" if wanted > len(order) else ""
    message = f"from {len(gang)} to {len(order)} worker{'s' if len(order) != 1 else ''}{missing}"
    return (
        next_generation(turn, order, planned=turn.status.assembling_since is None)
        .changed(restarts=resized(turn.status.restarts))
        .stating(Fact(ConditionType.RESTARTING, "True", Reason.RESIZED, message))
        .announcing(Event("Normal", Reason.RESIZED, message))
    )


def _may_grow(turn: Turn) -> bool:
    """Whether there is somebody to join a gang that trains, and nobody that soon would."""
    elastic, gang = turn.seen.job.spec.elastic, members(turn.seen, turn.status)
    if len(gang) >= wanted_size(turn.seen, turn.status):
        return False
    if elastic is None or elastic.grow_policy != "WhenReady" or turn.status.assembling_since is not None:
        return False
    if not makes_steps(turn):
        return False
    avoided = excluded_nodes(turn.status)
    pods = [member.pod for member in candidates(turn.seen, turn.status) if member.pod is not None]
    on_their_way = [pod for pod in pods if not pod.ready and is_fit(pod, avoided) and not obstacle(pod)]
    return bool(ready_candidates(turn)) and not on_their_way
