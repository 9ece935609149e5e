"""The gang: which pod is the member of each slot, and what part it has in the present generation.

    members      the slots of the present generation, in the order of node ranks
    candidates   the slots that an elastic job still lacks, and the spares: their pods come up beside the gang, without a
                 membership

Rule: the status alone says who is a member; the spec's number says how many candidates there are. A pod with any other
name is a stranger, however alive it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from deepseek_operator.api.v1alpha1 import DeepSeekJob, Status
from deepseek_operator.decide.types import Observation, Pod
from deepseek_operator.render import Membership, pod_name


@dataclass(frozen=True, slots=True)
class Member:
    """A slot and the pod that fills it; no pod: it is yet to be created, or was lost."""

    slot: int
    incarnation: int
    name: str
    pod: Pod | None


def size(job: DeepSeekJob, status: Status) -> int:
    """Slots of the gang: of the present generation, or of the first."""
    return len(status.ranks) or status.nodes.desired or job.spec.workers.replicas


def slots(job: DeepSeekJob, status: Status) -> tuple[int, ...]:
    """The slots of the present generation: those that `ranks` names, in its order, else the first ones."""
    return tuple(status.ranks) or tuple(range(size(job, status)))


def wanted_size(seen: Observation, status: Status) -> int:
    """Slots that the job shall have: those that an elastic one asks for, if it is allowed to."""
    spec = seen.job.spec
    return size(seen.job, status) if spec.elastic is None or seen.held is not None else spec.workers.replicas


def spares(job: DeepSeekJob) -> int:
    """Pods that wait to take the place of a lost one."""
    return job.spec.scheduling.spares or 0


def pods_wanted(job: DeepSeekJob) -> int:
    """Pods that the job wants to have: what quota is asked for."""
    return job.spec.workers.replicas + spares(job)


def incarnation_of(status: Status, slot: int) -> int:
    """How often the slot's pod was replaced."""
    return status.incarnations.get(str(slot), 0)


def members(seen: Observation, status: Status) -> tuple[Member, ...]:
    """The members of the status' generation, ordered by slot."""
    return occupants(seen, status, sorted(slots(seen.job, status)))


def candidate_slots(seen: Observation, status: Status) -> tuple[int, ...]:
    """The lowest slots that are free, as many as the gang lacks and spares are wanted."""
    taken = set(slots(seen.job, status))
    count = max(0, wanted_size(seen, status) - len(taken)) + spares(seen.job)
    return tuple([slot for slot in range(count + len(taken)) if slot not in taken][:count])


def candidates(seen: Observation, status: Status) -> tuple[Member, ...]:
    """Who may join the gang, ordered by slot."""
    return occupants(seen, status, candidate_slots(seen, status))


def occupants(seen: Observation, status: Status, wanted: Iterable[int]) -> tuple[Member, ...]:
    """The slots with the pods that the status names for them."""
    by_name = {pod.name: pod for pod in seen.pods}
    found = []
    for slot in wanted:
        incarnation = incarnation_of(status, slot)
        name = pod_name(seen.job.metadata.name, slot, incarnation)
        found.append(Member(slot, incarnation, name, by_name.get(name)))
    return tuple(found)


def to_be_created(status: Status, slot: int) -> bool:
    """Whether a missing pod of this slot was never there; otherwise it was lost.

    Generation 1 is all new. In a later one only the replaced slots are. Once all pods of a generation were seen
    together, none of it is new any more.
    """
    if status.launched_generation >= status.generation:
        return False
    return status.generation == 1 or slot in status.replaced


def is_ranked(job: DeepSeekJob, status: Status) -> bool:
    """Whether the slots have their node ranks: from the start, unless topology is to order them."""
    return job.spec.scheduling.topology is None or bool(status.ranks)


def node_rank(status: Status, slot: int) -> int:
    """The place of a member's slot in the order of node ranks."""
    return status.ranks.index(slot) if status.ranks else slot


def rank_zero(seen: Observation, status: Status) -> Member:
    """The member with node rank 0."""
    return min(members(seen, status), key=lambda member: node_rank(status, member.slot))


def part_of(job: DeepSeekJob, status: Status, slot: int) -> Membership | None:
    """What a slot's pod is told; None while the gang waits for its node ranks."""
    return membership_of(job, status, slot) if is_ranked(job, status) else None


def membership_of(job: DeepSeekJob, status: Status, slot: int) -> Membership:
    """A slot's part in the present generation.

    Raises:
        ValueError: the status has no generation yet.
    """
    if status.master is None:
        raise ValueError(f"job {job.metadata.name}: status.generation {status.generation} has no master")
    return Membership(
        generation=status.generation,
        attempt=status.attempt,
        node_rank=node_rank(status, slot),
        nodes=size(job, status),
        master=status.master.address,
        host=status.master.slot == slot,
        planned=status.planned,
    )


def is_present(member: Member) -> bool:
    """A member that has ended well was ready, and the others go on without waiting for it."""
    pod = member.pod
    return pod is not None and (pod.phase == "Succeeded" or (pod.ready and not pod.terminating))


def is_fit(pod: Pod, avoided: Collection[str]) -> bool:
    """Whether a pod that is no member may become one: it runs or will run, on no node that the job keeps away from."""
    return pod.phase in ("Pending", "Running") and is_live(pod) and not pod.disrupted and pod.node not in avoided


def is_live(pod: Pod) -> bool:
    """The pod runs or will run, and nobody has asked it to stop."""
    return pod.phase not in ("Succeeded", "Failed") and not pod.terminating
