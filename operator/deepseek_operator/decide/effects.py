"""What must be created, patched and deleted, so that the world becomes what the status says.

Rule: derived from the status and the pods alone, never from what this pass has just decided. So a stop between any
two writes is harmless: the next pass derives the rest of the same effects.
"""

from __future__ import annotations

from collections import defaultdict

from deepseek_operator.api.names import ANNOTATION_MEMBERSHIP, ANNOTATION_REMINDER
from deepseek_operator.api.v1alpha1 import Status
from deepseek_operator.decide.claims import before_pods
from deepseek_operator.decide.exclusion import excluded_nodes
from deepseek_operator.decide.gang import (
    candidates,
    is_live,
    is_ranked,
    members,
    membership_of,
    part_of,
    size,
    to_be_created,
)
from deepseek_operator.decide.quota import quota_wanted
from deepseek_operator.decide.rayeffects import ray_creations, ray_deletions
from deepseek_operator.decide.reminding import reminder
from deepseek_operator.decide.turn import ended
from deepseek_operator.decide.types import DeletePod, Manifest, Observation, PatchPod, Pod
from deepseek_operator.render import (
    away_from,
    disruption_budget,
    headless_service,
    membership_json,
    pod_group,
    worker_pod,
)
from deepseek_operator.render.kueue import Placement, placed

LOGS_KEPT = 5
"""Failed pods of former members that are kept for their logs, over all slots."""


def may_have_pods(status: Status) -> bool:
    """The job runs: it has begun, has not ended, and is neither suspended nor queued."""
    return status.generation > 0 and status.active_since is not None and not ended(status)


def creations(seen: Observation, status: Status) -> tuple[Manifest, ...]:
    """What asks for quota; else the claim, the Service, the PodGroup, the PodDisruptionBudget, the parts of the Ray cluster,
    and the pods of the present generation that are missing.

    No pod is created before its PodGroup was seen: its scheduler would not know what it belongs to; none before the claim
    that is made for the job was seen, and seen to be its own; and none of a job with a queue while it can't be seen where
    its quota is.
    """
    if not may_have_pods(status):
        asking = quota_wanted(seen, status)
        return (asking,) if asking is not None else ()
    service = [] if seen.service_exists else [headless_service(seen.job)]
    awaited = before_pods(seen, status)
    if awaited is not None:
        return (*service, *awaited)
    group = pod_group(seen.job, _scheduled_together(seen, status))
    if group is not None and seen.group_members is None:
        return (*service, group)
    groups = [group] if group is not None and group["spec"]["minMember"] != seen.group_members else []
    budget = disruption_budget(seen.job, status)
    if budget is not None and budget["spec"]["maxUnavailable"] != seen.max_unavailable:
        groups.append(budget)
    place = _placement(seen)
    if place is None:
        return (*service, *groups)
    missing = [
        (member, part_of(seen.job, status, member.slot))
        for member in members(seen, status)
        if member.pod is None and to_be_created(status, member.slot)
    ]
    beside = [(m, None) for m in candidates(seen, status) if m.pod is None and m.slot not in status.standby]
    avoided = excluded_nodes(status)
    pods = [
        placed(away_from(worker_pod(seen.job, member.slot, member.incarnation, part), avoided), place)
        for member, part in (*missing, *beside)
    ]
    return (*service, *groups, *ray_creations(seen, status), *pods)


def _scheduled_together(seen: Observation, status: Status) -> int:
    """So many pods are to find room together, or none: as many as the job can begin with."""
    elastic = seen.job.spec.elastic
    if elastic is not None and elastic.shrink_after_seconds is not None:
        return elastic.min_replicas
    return size(seen.job, status)


def _placement(seen: Observation) -> Placement | None:
    """What an admission asks of the pods; None: it isn't known at the moment."""
    if seen.queue is None:
        return Placement()
    return seen.queue.workload.placement if seen.queue.workload is not None else None


def patches(seen: Observation, status: Status) -> tuple[PatchPod, ...]:
    """The live members that have not been told their part in the present generation, or have to be reminded of it, and the
    candidates that still have one in an older."""
    if not may_have_pods(status):
        return ()
    gang = members(seen, status) if is_ranked(seen.job, status) else ()
    told = [(member.pod, membership_json(membership_of(seen.job, status, member.slot))) for member in gang]
    told += [(member.pod, "") for member in candidates(seen, status)]
    news = [
        PatchPod(pod.name, pod.uid, {ANNOTATION_MEMBERSHIP: part})
        for pod, part in told
        if pod is not None and is_live(pod) and (pod.membership or "") != part
    ]
    wanted = reminder(seen, status)
    again = [
        PatchPod(pod.name, pod.uid, {ANNOTATION_REMINDER: wanted})
        for pod in (member.pod for member in gang)
        if wanted and pod is not None and is_live(pod) and pod.reminder != wanted
    ]
    return (*news, *again)


def deletions(seen: Observation, status: Status) -> tuple[DeletePod, ...]:
    """Live pods that are neither members nor candidates, all live pods of a job that may have none, old pods beyond those
    kept, and by force what can't finish terminating because its node is lost.

    Only pods that are no members any more are forced: a lost member is first replaced under a new name, in a generation
    that its pod, should it still run somewhere, never hears of. A job that has not begun has no pods. If it has, its
    status was lost: they may go on, unless it is suspended.
    """
    if status.generation == 0 and not seen.job.spec.suspend:
        return ()
    names = {member.name for member in (*members(seen, status), *candidates(seen, status))}
    stop = not may_have_pods(status)
    live = [pod for pod in seen.pods if is_live(pod) and (stop or pod.name not in names)]
    over = [pod for pod in seen.pods if pod.phase in ("Succeeded", "Failed")]
    kept = _kept(over, names) if not _cleans_all(seen, status) else set()
    spent = [pod for pod in over if pod.uid not in kept and not pod.terminating]
    forced = [pod for pod in seen.pods if pod.terminating and pod.node_lost and (stop or pod.name not in names)]
    workers = sorted((*live, *spent, *forced), key=lambda pod: (pod.slot, pod.incarnation))
    heads = ray_deletions(seen, status, stop=stop, clean=_cleans_all(seen, status))
    return (*(DeletePod(pod.name, pod.uid, force=pod.terminating) for pod in workers), *heads)


def _cleans_all(seen: Observation, status: Status) -> bool:
    return ended(status) and seen.job.spec.lifecycle.clean_pod_policy == "All"


def _kept(over: list[Pod], names: set[str]) -> set[str]:
    """UIDs of the pods that ended and stay for their logs: members, and of the former ones the newest failed of a slot,
    those that were replaced most often."""
    failed: dict[int, list[Pod]] = defaultdict(list)
    for pod in over:
        if pod.phase == "Failed" and pod.name not in names:
            failed[pod.slot].append(pod)
    newest = [max(pods, key=lambda pod: pod.incarnation) for pods in failed.values()]
    former = sorted(newest, key=lambda pod: (-pod.incarnation, pod.slot))[:LOGS_KEPT]
    return {pod.uid for pod in over if pod.name in names} | {pod.uid for pod in former}
