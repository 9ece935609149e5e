"""Whether all pods of a job can use a claim, by its access modes.

    ReadWriteMany            any number of them, anywhere
    ReadOnlyMany alone       they can read it; nothing can be saved there
    ReadWriteOncePod         one of them: the scheduler lets no second one start
    ReadWriteOnce            those of one node. Many volumes don't enforce it, and on a cluster of one node it is enough:
                             so it is told, and nothing follows from it

Rule: what can never work is refused before the first pod; what may work is tried.
"""

from __future__ import annotations

from dataclasses import dataclass

from deepseek_operator.api.affinity import Affinity
from deepseek_operator.api.checkpoint import ONE_POD
from deepseek_operator.api.names import Reason
from deepseek_operator.api.v1alpha1 import DeepSeekJob
from deepseek_operator.decide.gang import pods_wanted
from deepseek_operator.decide.types import Claim

HOSTNAME = "kubernetes.io/hostname"
MANY, READ = "ReadWriteMany", "ReadOnlyMany"
REMEDY = (
    "use a claim that is ReadWriteMany (of a class with a shared file system), workers.replicas: 1, or checkpoints in an "
    "object store"
)
ONE_NODE = f"; or keep the workers on one node, by workers.nodeSelector or affinity with {HOSTNAME}"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with sharing a claim."""

    reason: Reason
    message: str
    refused: bool
    """It can't work; else it may."""


def sharing(job: DeepSeekJob, claim: Claim, *, reads: bool = False) -> Problem | None:
    """What is wrong; None: nothing.

    Args:
        reads: the claim is only read.
    """
    modes, pods = set(claim.access_modes), pods_wanted(job)
    named = f"claim {claim.name} is {' and '.join(claim.access_modes)}"
    if not modes or MANY in modes or (reads and READ in modes):
        return None
    if modes == {READ}:
        return Problem(Reason.VOLUME_NOT_SHARED, f"{named}: nothing can be saved there; {REMEDY}", refused=True)
    if pods <= 1:
        return None
    if ONE_POD in modes:
        message = f"{named}: one pod alone can use it, and this job has {pods}; {REMEDY}"
        return Problem(Reason.VOLUME_NOT_SHARED, message, refused=True)
    if on_one_node(job):
        return None
    message = (
        f"{named}: only pods on one node can share it, and this job has {pods}, which may come to wait for it on several "
        f"nodes; {REMEDY}{ONE_NODE}"
    )
    return Problem(Reason.VOLUME_ON_ONE_NODE, message, refused=False)


def on_one_node(job: DeepSeekJob) -> bool:
    """Whether the job's own rules keep all of its pods on one node."""
    workers, topology = job.spec.workers, job.spec.scheduling.topology
    if HOSTNAME in workers.node_selector:
        return True
    if topology is not None and topology.key == HOSTNAME and topology.mode == "Required":
        return True
    return workers.affinity is not None and _names_one(workers.affinity)


def _names_one(affinity: Affinity) -> bool:
    nodes, pods = affinity.node_affinity, affinity.pod_affinity
    near = pods.required_during_scheduling_ignored_during_execution if pods is not None else []
    if any(term.topology_key == HOSTNAME for term in near):
        return True
    required = nodes.required_during_scheduling_ignored_during_execution if nodes is not None else None
    terms = required.node_selector_terms if required is not None else []
    named = [
        {v for e in term.match_expressions if e.key == HOSTNAME and e.operator == "In" for v in e.values}
        for term in terms
    ]
    return bool(named) and all(named) and len(set().union(*named)) == 1
