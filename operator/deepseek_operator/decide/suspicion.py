"""Whose node may be lost, though the cluster has not noticed: Kubernetes takes 40 s for that, the gang a few.

| who says so | whom |
| --- | --- |
| node rank 0's agent: no sign of life, or the store can't be reached | those ranks; the store's host |
| its own silence when it was asked last | node rank 0 |
| the pod's readiness, in a gang that was whole | that pod |

Rule: a suspicion decides nothing. It makes somebody look (`probe`), and what is found makes a pod unreachable.
"""

from __future__ import annotations

from dataclasses import dataclass

from deepseek_operator.decide.gang import Member, members, node_rank
from deepseek_operator.decide.types import Observation, Pod

SUSPECTS_MAX = 16
CONTROLS_MAX = 3


@dataclass(frozen=True, slots=True)
class Suspect:
    """A node, and the agent on it."""

    node: str
    host_ip: str
    pod_ip: str


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Whom to look at."""

    suspects: frozenset[Suspect] = frozenset()
    controls: tuple[str, ...] = ()
    """Addresses of other nodes of the gang: where these don't answer either, silence says nothing."""


def suspicion(seen: Observation) -> Suspicion:
    """Who of the present generation is to be looked at."""
    if seen.job.status.generation == 0:
        return Suspicion()
    gang = members(seen, seen.job.status)
    doubted = [member for member in gang if _is_doubted(seen, member)][:SUSPECTS_MAX]
    found = [_suspect(member.pod) for member in doubted if member.pod is not None]
    suspects = frozenset(one for one in found if one is not None)
    hosts = {member.pod.host_ip for member in gang if member.pod is not None and member.pod.phase == "Running"}
    others = sorted(host for host in hosts - {one.host_ip for one in suspects} if host)
    return Suspicion(suspects, tuple(others[:CONTROLS_MAX])) if suspects else Suspicion()


def _is_doubted(seen: Observation, member: Member) -> bool:
    status, progress = seen.job.status, seen.progress
    rank = node_rank(status, member.slot)
    if rank == 0 and seen.unanswered:
        return True
    if member.pod is not None and status.assembling_since is None and not member.pod.ready:
        return True
    silence = progress.silence if progress is not None else None
    if silence is None or silence.generation != status.generation:
        return False
    hosts_store = status.master is not None and status.master.slot == member.slot
    return rank in silence.nodes or (silence.store and hosts_store)


def _suspect(pod: Pod) -> Suspect | None:
    if pod.phase != "Running" or not (pod.node and pod.host_ip and pod.ip):
        return None
    return Suspect(pod.node, pod.host_ip, pod.ip)
