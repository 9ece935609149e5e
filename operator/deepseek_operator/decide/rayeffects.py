"""What of a job's Ray cluster must be created and deleted, so that the world becomes what the status says.

Rule: as all effects, derived from the status and from what was seen alone.
"""

from __future__ import annotations

from deepseek_operator.api.v1alpha1 import Status
from deepseek_operator.decide.exclusion import excluded_nodes
from deepseek_operator.decide.gang import is_live
from deepseek_operator.decide.ray import present_head
from deepseek_operator.decide.types import DeletePod, Manifest, Observation
from deepseek_operator.render import away_from
from deepseek_operator.render.kueue import Placement, placed
from deepseek_operator.render.ray import head_pod, head_service, network_policy, token_secret


def ray_creations(seen: Observation, status: Status) -> tuple[Manifest, ...]:
    """What is missing: the token first, because all others want it, the head's pod last."""
    wanted, now, job = seen.job.spec.ray, status.ray, seen.job
    if wanted is None or now is None or now.since is None:
        return ()
    policy = network_policy(job, wanted)
    beside = [
        (token_secret(job), seen.ray.secret),
        (policy, policy is None or seen.ray.policy),
        (head_service(job, now.head), seen.ray.service_head == now.head),
    ]
    missing = [manifest for manifest, is_there in beside if manifest is not None and not is_there]
    place = _placement(seen)
    if place is None or now.seen or present_head(seen, status) is not None:
        return tuple(missing)
    head = away_from(head_pod(job, wanted, now.head), excluded_nodes(status))
    return (*missing, placed(head, place))


def ray_deletions(seen: Observation, status: Status, *, stop: bool, clean: bool) -> tuple[DeletePod, ...]:
    """Live heads but the present one, those that can't finish terminating because their node is lost, and all that ended
    but the last one, which is kept for its logs.

    Args:
        stop: the job may have no pods.
        clean: nothing is kept.
    """
    present = None if stop else present_head(seen, status)
    others = [pod for pod in seen.heads if pod is not present]
    over = [pod for pod in seen.heads if pod.phase in ("Succeeded", "Failed") and not pod.terminating]
    kept = [] if clean else over[-1:]
    gone = [pod for pod in others if is_live(pod) or (pod.terminating and pod.node_lost)]
    gone += [pod for pod in over if pod not in kept and pod is not present]
    return tuple(DeletePod(pod.name, pod.uid, force=pod.terminating) for pod in gone)


def _placement(seen: Observation) -> Placement | None:
    """What an admission asks of the head; None: it isn't known at the moment."""
    if seen.queue is None:
        return Placement()
    return seen.queue.workload.head_placement if seen.queue.workload is not None else None
