"""Policy: a job that may have no pods, because it is suspended or waits in a queue. `turn.rest` says why.

Rule: the run ends with the very status write that says so, before a pod is deleted. What the job has achieved stays.
"""

from __future__ import annotations

from deepseek_operator.api.conditions import Fact
from deepseek_operator.api.names import ConditionType
from deepseek_operator.api.v1alpha1 import Nodes
from deepseek_operator.decide.activity import halted
from deepseek_operator.decide.gang import size
from deepseek_operator.decide.running import checkpointed
from deepseek_operator.decide.turn import Turn


def resting(turn: Turn) -> Turn:
    """Ends the run, and says that nothing runs and why."""
    turn, why = turn.stating(checkpointed(turn)), turn.rest
    if why is None or turn.over:
        return turn
    if turn.status.active_since is not None:
        turn = halted(turn)
    training = turn.status.training
    if training is not None:
        training = training.model_copy(update={"eta": None, "tokens_per_second": None})
    status, job = turn.status, turn.seen.job
    nodes = size(job, status) if status.generation > 0 else job.spec.workers.replicas
    turn = turn.changed(training=training, nodes=Nodes(ready=0, desired=nodes), ready_nodes=f"0/{nodes}")
    kinds = (ConditionType.PODS_READY, ConditionType.RUNNING, ConditionType.RESTARTING)
    return turn.stating(*(Fact(kind, "False", why.reason, why.message) for kind in kinds))
