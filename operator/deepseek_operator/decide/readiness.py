"""Policy: which worker pods are ready, and what the others wait for.

Rule: waiting costs nothing and ends by itself; the status says exactly what is waited for.
"""

from __future__ import annotations

from deepseek_operator.api.conditions import Fact
from deepseek_operator.api.names import ConditionType, Reason
from deepseek_operator.api.v1alpha1 import Nodes
from deepseek_operator.decide.causes import one_word
from deepseek_operator.decide.gang import Member, members
from deepseek_operator.decide.report import TEXT_MAX, clean
from deepseek_operator.decide.turn import Turn

_IMAGE = frozenset({"ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError"})
_PASSING = frozenset({"", "ContainerCreating", "PodInitializing", "Scheduled"})
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
    return turn.stating(_pods_ready(gang, present))


def pods_ready(turn: Turn) -> Fact:
    """Whether all pods are ready, and what the others wait for."""
    gang = members(turn.seen, turn.status)
    return _pods_ready(gang, sum(1 for member in gang if _counts_as_ready(member)))


def _counts_as_ready(member: Member) -> bool:
    """A member that has ended well was ready, and the others go on without waiting for it."""
    pod = member.pod
    return pod is not None and (pod.phase == "Succeeded" or (pod.ready and not pod.terminating))


def _pods_ready(gang: tuple[Member, ...], ready: int) -> Fact:
    kind = ConditionType.PODS_READY
    if ready == len(gang):
        return Fact(kind, "True", Reason.ALL_READY)
    stuck = next((member for member in gang if _obstacle(member)), None)
    if stuck is not None and stuck.pod is not None:
        message = clean(stuck.pod.message, TEXT_MAX)
        return Fact(kind, "False", _obstacle(stuck), f"worker {stuck.slot}: {stuck.pod.reason}: {message}")
    return Fact(kind, "False", Reason.WAITING_FOR_PODS, f"{ready} of {len(gang)} worker pods are ready")


def _obstacle(member: Member) -> str:
    """The reason for which a pod doesn't come up; empty when there is none."""
    pod = member.pod
    if pod is None or pod.phase != "Pending" or pod.reason in _PASSING:
        return ""
    if pod.reason in _IMAGE:
        return Reason.IMAGE_PULL
    return one_word(pod.reason, Reason.WAITING_FOR_PODS)
