"""Policy: which worker pods are ready, and what the others wait for.

Rule: waiting costs nothing and ends by itself; the status says exactly what is waited for.
"""

from __future__ import annotations

from deepseek_operator.api.conditions import Fact
from deepseek_operator.api.names import ConditionType, Reason
from deepseek_operator.api.v1alpha1 import Nodes
from deepseek_operator.decide.causes import one_word
from deepseek_operator.decide.exclusion import excluded_nodes
from deepseek_operator.decide.gang import Member, members
from deepseek_operator.decide.report import TEXT_MAX, clean
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Pod

_IMAGE = frozenset({"ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError"})
_UNSCHEDULABLE = ("Unschedulable", "SchedulerError")
_VOLUME = (
    "unbound immediate persistentvolumeclaims",
    "didn't find available persistent volumes",
    "did not have enough free storage",
    "non-existent pv",
    'persistentvolumeclaim "',
)
"""The scheduler's words, in lower case, for a claim that is missing, unbound, or bound to nothing."""
PASSING = frozenset({"", "ContainerCreating", "PodInitializing", "Scheduled"})
"""Reasons of a pod that is on its way."""


def readiness(turn: Turn) -> Turn:
    """Counts the ready members and states PodsReady."""
    if turn.over:
        return turn.changed(
            nodes=turn.status.nodes.model_copy(update={"ready": 0}), ready_nodes=f"0/{turn.status.nodes.desired}"
        )
    gang = members(turn.seen, turn.status)
    present = sum(1 for member in gang if _counts_as_ready(member))
    nodes = Nodes(ready=present, desired=len(gang))
    turn = turn.changed(nodes=nodes, ready_nodes=f"{present}/{len(gang)}")
    return turn.stating(_pods_ready(gang, present, excluded_nodes(turn.status)))


def pods_ready(turn: Turn) -> Fact:
    """Whether all pods are ready, and what the others wait for."""
    gang = members(turn.seen, turn.status)
    return _pods_ready(gang, sum(1 for member in gang if _counts_as_ready(member)), excluded_nodes(turn.status))


def _counts_as_ready(member: Member) -> bool:
    """A member that has ended well was ready, and the others go on without waiting for it."""
    pod = member.pod
    return pod is not None and (pod.phase == "Succeeded" or (pod.ready and not pod.terminating))


def _pods_ready(gang: tuple[Member, ...], ready: int, avoided: tuple[str, ...]) -> Fact:
    kind = ConditionType.PODS_READY
    if ready == len(gang):
        return Fact(kind, "True", Reason.ALL_READY)
    for member in gang:
        if member.pod is not None and (reason := _obstacle(member.pod)):
            return Fact(kind, "False", reason, _told(member.slot, member.pod, reason, avoided))
    return Fact(kind, "False", Reason.WAITING_FOR_PODS, f"{ready} of {len(gang)} worker pods are ready")


def _obstacle(pod: Pod) -> str:
    """The reason for which a pod doesn't come up; empty when there is none."""
    if pod.ready or pod.phase not in ("Pending", "Running") or pod.reason in PASSING:
        return ""
    if pod.reason in _IMAGE:
        return Reason.IMAGE_PULL
    if pod.reason in _UNSCHEDULABLE:
        words = pod.message.lower()
        return Reason.VOLUME_NOT_BOUND if any(marker in words for marker in _VOLUME) else Reason.UNSCHEDULABLE
    return one_word(pod.reason, Reason.WAITING_FOR_PODS)


def _told(slot: int, pod: Pod, reason: str, avoided: tuple[str, ...]) -> str:
    """The obstacle, for people: whose it is, Kubernetes' own words, and what of it is our doing."""
    container = f", container {pod.container}" if pod.container else ""
    message = clean(pod.message, TEXT_MAX)
    ours = f"; the job keeps away from {', '.join(avoided)} (status.excludedNodes)" if avoided else ""
    return f"worker {slot}{container}: {pod.reason}: {message}" + (ours if reason == Reason.UNSCHEDULABLE else "")
