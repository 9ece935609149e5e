"""Policy: the first generation, and the moment when a generation's pods were all seen.

    generation 1 written -> pods created -> all seen: launchedGeneration = 1 -> a missing pod was lost

The rule also repairs a status that was wiped or rolled back: a pod that the status could not have asked for
shows that it is behind. Then everything is replaced under a generation that nobody has seen. If only our view was
old, the API server refuses that status (resourceVersion), and nothing has happened.
"""

from __future__ import annotations

from deepseek_operator.api.conditions import Fact
from deepseek_operator.api.names import ConditionType, Reason
from deepseek_operator.api.v1alpha1 import Master, Nodes
from deepseek_operator.decide.gang import candidate_slots, incarnation_of, members, slots, wanted_size
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Event, Pod
from deepseek_operator.render import pod_dns, pod_name
from deepseek_operator.render.membership import read_announced

INCARNATION_MAX = 10_000
"""More replacements than any slot has had; a pod with such a number is not of our making."""


def launch(turn: Turn) -> Turn:
    """Asks for the first generation, or notes that the present one has been launched."""
    if _is_behind(turn):
        return _start_over(turn)
    if turn.status.generation == 0:
        return _first_generation(turn)
    if turn.status.launched_generation < turn.status.generation and _all_seen(turn):
        return turn.changed(launched_generation=turn.status.generation, replaced=[])
    return turn


def _first_generation(turn: Turn) -> Turn:
    job = turn.seen.job
    nodes = job.spec.workers.replicas
    begun = turn.changed(
        generation=1,
        attempt=1,
        start_time=turn.now,
        active_since=turn.now,
        assembling_since=turn.now,
        assembled_at=None,
        nodes=Nodes(ready=0, desired=nodes),
        master=Master(slot=0, address=pod_dns(job.metadata, 0, 0)),
    )
    return begun.stating(Fact(ConditionType.RESTARTING, "False", Reason.AS_EXPECTED)).announcing(
        Event("Normal", Reason.STARTING, f"starting {nodes} worker{'s' if nodes != 1 else ''}")
    )


def _all_seen(turn: Turn) -> bool:
    return all(member.pod is not None for member in members(turn.seen, turn.status))


def _is_behind(turn: Turn) -> bool:
    """Whether there are pods that the status could not have asked for."""
    status, gang = turn.status, [pod for pod in turn.seen.pods if _is_ours(turn, pod)]
    if status.generation == 0:
        return bool(gang)
    return any(
        pod.incarnation > incarnation_of(status, pod.slot)
        or read_announced(pod.membership).generation > status.generation
        for pod in gang
    )


def _is_ours(turn: Turn, pod: Pod) -> bool:
    """The pod has the name that we give: somebody else's labels are no evidence."""
    job = turn.seen.job
    own_name = pod.name == pod_name(job.metadata.name, pod.slot, pod.incarnation)
    return own_name and pod.slot < _slots_known(turn) and pod.incarnation < INCARNATION_MAX


def _slots_known(turn: Turn) -> int:
    """From here on no slot was ever asked for, as far as the status and the spec say."""
    asked_for = (*slots(turn.seen.job, turn.status), *candidate_slots(turn.seen, turn.status), *turn.status.standby)
    return max(asked_for) + 1


def _start_over(turn: Turn) -> Turn:
    """Replaces the whole gang, under a generation above every one that was announced."""
    job, status = turn.seen.job, turn.status
    nodes = wanted_size(turn.seen, status)
    announced = [read_announced(pod.membership).generation for pod in turn.seen.pods]
    replaced = sorted({*range(nodes), *(pod.slot for pod in turn.seen.pods if _is_ours(turn, pod))})
    incarnations = {str(slot): _newest_incarnation(turn, slot) + 1 for slot in replaced}
    message = "the status is older than the pods; the whole gang is started anew"
    begun = turn.changed(
        generation=max([status.generation, *announced]) + 1,
        attempt=status.attempt + 1,
        launched_generation=0,
        incarnations=status.incarnations | incarnations,
        replaced=list(range(nodes)),
        standby=[],
        assembling_since=turn.now,
        assembled_at=None,
        planned=False,
        start_time=status.start_time or turn.now,
        active_since=status.active_since or turn.now,
        waiting_since=turn.now,
        nodes=Nodes(ready=0, desired=nodes),
        master=Master(slot=0, address=pod_dns(job.metadata, 0, incarnations["0"])),
        ranks=[],
    )
    return begun.stating(Fact(ConditionType.RESTARTING, "True", Reason.WORKER_LOST, message)).announcing(
        Event("Warning", Reason.WORKER_LOST, message)
    )


def _newest_incarnation(turn: Turn, slot: int) -> int:
    ours = [pod.incarnation for pod in turn.seen.pods if pod.slot == slot and _is_ours(turn, pod)]
    return max([incarnation_of(turn.status, slot), *ours])
