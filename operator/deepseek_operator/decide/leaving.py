"""Which of the lost members leave in good order: they were only told to end, and have the time to save with the others.

    deleted, evicted, drained, pre-empted, its node shuts down
       ├─ it runs in a whole gang, on a node that answers, and the grace is longer than a save took ──► it leaves
       └─ otherwise ──► it is lost at once

A drain takes one after the other: a gang on its planned way to the next generation still counts as whole.

Rule: when all that are lost leave, the next generation is planned: the others are told to save, not killed, so that the
last step is everybody's. It is charged as Preempted. How long they wait for each other is bounded by the agents: by the
grace, and by the silence of a peer.
"""

from __future__ import annotations

from dataclasses import replace

from deepseek_operator.api.names import Cause
from deepseek_operator.api.v1alpha1 import Status
from deepseek_operator.decide.losses import Loss
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Pod

SOONEST_S = 1.0
"""A grace that is over sooner is none."""
SAVES = 2
"""The one under way and the one of the last step."""


def leaving(turn: Turn, loss: Loss) -> Loss:
    """The loss, as one that was asked for if its pod can still save with the others."""
    pod = loss.member.pod
    return replace(loss, cause=Cause.PREEMPTED, leaves=True) if pod is not None and _can_save(turn, pod) else loss


def _can_save(turn: Turn, pod: Pod) -> bool:
    told_to_end = pod.phase == "Running" and (pod.terminating or pod.disrupted)
    everybody_was_there = turn.status.assembling_since is None or turn.status.planned
    if not told_to_end or pod.unreachable or not everybody_was_there:
        return False
    return pod.gone_by is None or (pod.gone_by - turn.seen.now).total_seconds() > _needed_s(turn.status)


def _needed_s(status: Status) -> float:
    """Seconds that a save takes, as far as is known, after the one that may be under way."""
    return max(SOONEST_S, SAVES * status.checkpoint.seconds if status.checkpoint is not None else 0.0)
