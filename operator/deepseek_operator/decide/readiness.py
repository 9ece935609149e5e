"""Policy: which worker pods are ready, and what the others wait for.

Rule: waiting costs nothing and ends by itself; the status says exactly what is waited for. Candidates that an elastic job
waits for are told beside; whether the gang is ready is a matter of its members alone.
"""

from __future__ import annotations

from deepseek_operator.api.conditions import Fact
from deepseek_operator.api.names import ConditionType, Reason
from deepseek_operator.api.v1alpha1 import Nodes
from deepseek_operator.decide.causes import one_word
from deepseek_operator.decide.exclusion import NO_ROOM, excluded_nodes
from deepseek_operator.decide.gang import Member, candidates, is_present, members
from deepseek_operator.decide.report import TEXT_MAX, clean
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Pod

_IMAGE = frozenset({"ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError"})
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
NAMED_MAX = 5
"""Workers without a known obstacle that are named."""


def readiness(turn: Turn) -> Turn:
    """Counts the ready members and states PodsReady."""
    if turn.over:
        return turn.changed(
            nodes=turn.status.nodes.model_copy(update={"ready": 0}), ready_nodes=f"0/{turn.status.nodes.desired}"
        )
    gang = members(turn.seen, turn.status)
    present = sum(1 for member in gang if is_present(member))
    nodes = Nodes(ready=present, desired=len(gang))
    return turn.changed(nodes=nodes, ready_nodes=f"{present}/{len(gang)}").stating(pods_ready(turn))


def pods_ready(turn: Turn) -> Fact:
    """Whether all pods are ready, and what the others wait for."""
    gang, avoided = members(turn.seen, turn.status), excluded_nodes(turn.status)
    kind, ready = ConditionType.PODS_READY, sum(1 for member in gang if is_present(member))
    count = f"{ready} of {len(gang)} worker pods are ready"
    if ready == len(gang):
        lacking = [member for member in candidates(turn.seen, turn.status) if not is_present(member)]
        waiting = f"{count}; {waited_for(tuple(lacking), avoided)}" if lacking else ""
        return Fact(kind, "True", Reason.ALL_READY, waiting)
    for member in gang:
        if member.pod is not None and (reason := obstacle(member.pod)):
            return Fact(kind, "False", reason, _told(member.slot, member.pod, reason, avoided))
    return Fact(kind, "False", Reason.WAITING_FOR_PODS, f"{count}{_about_the_volume(turn)}")


def _about_the_volume(turn: Turn) -> str:
    """A pod whose volume is on another node says so in Events alone."""
    doubts = {fact.reason for fact in turn.facts if fact.type == ConditionType.VOLUME_USABLE}
    return "; the volume may be on another node, see VolumeUsable" if Reason.VOLUME_ON_ONE_NODE in doubts else ""


def waited_for(lacking: tuple[Member, ...], avoided: tuple[str, ...]) -> str:
    """Who isn't ready, for people: the first whose obstacle is known with its words, else their slots."""
    for member in lacking:
        if member.pod is not None and (reason := obstacle(member.pod)):
            return _told(member.slot, member.pod, reason, avoided)
    named = ", ".join(str(member.slot) for member in lacking[:NAMED_MAX])
    more = f" and {len(lacking) - NAMED_MAX} more" if len(lacking) > NAMED_MAX else ""
    if len(lacking) == 1:
        return f"worker {named} is waited for"
    return f"workers {named}{more} are waited for"


def obstacle(pod: Pod) -> str:
    """The reason for which a pod doesn't come up; empty when there is none."""
    if pod.ready or pod.phase not in ("Pending", "Running") or pod.reason in PASSING:
        return ""
    if pod.reason in _IMAGE:
        return Reason.IMAGE_PULL
    if pod.reason in NO_ROOM:
        words = pod.message.lower()
        return Reason.VOLUME_NOT_BOUND if any(marker in words for marker in _VOLUME) else Reason.UNSCHEDULABLE
    return one_word(pod.reason, Reason.WAITING_FOR_PODS)


def _told(slot: int, pod: Pod, reason: str, avoided: tuple[str, ...]) -> str:
    """The obstacle, for people: whose it is, Kubernetes' own words, and what of it is our doing."""
    container = f", container {pod.container}" if pod.container else ""
    message = clean(pod.message, TEXT_MAX)
    ours = f"; the job keeps away from {', '.join(avoided)} (status.excludedNodes)" if avoided else ""
    return f"worker {slot}{container}: {pod.reason}: {message}" + (ours if reason == Reason.UNSCHEDULABLE else "")
