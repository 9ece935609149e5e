"""Whether a node is proven to be lost, so that nobody there will ever confirm that a pod has ended. Pure.

| proof |
| --- |
| there is no such node any more |
| its taint node.kubernetes.io/out-of-service: a person, or the cloud, says so |
| Ready is Unknown or False, and the taint unreachable or not-ready says that the control plane has noticed |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from deepseek_operator.decide.types import Pod

OVERDUE = timedelta(seconds=30)
"""How long after the end of its grace a terminating pod is asked about."""
_OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
_UNREACHABLE = frozenset({"node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"})


def is_lost(node: Mapping[str, Any] | None) -> bool:
    """Whether the Node object proves that the node is lost; None: there is no such object."""
    if node is None:
        return True
    taints = {taint.get("key") for taint in node.get("spec", {}).get("taints", ())}
    if _OUT_OF_SERVICE in taints:
        return True
    conditions = {found.get("type"): found.get("status") for found in node.get("status", {}).get("conditions", ())}
    return conditions.get("Ready") in ("Unknown", "False") and bool(taints & _UNREACHABLE)


def overdue_on(pods: Iterable[Pod], now: datetime) -> tuple[str, ...]:
    """The nodes of pods that should have been gone long ago."""
    return tuple(sorted({pod.node for pod in pods if pod.node and is_overdue(pod, now)}))


def is_overdue(pod: Pod, now: datetime) -> bool:
    return pod.gone_by is not None and now > pod.gone_by + OVERDUE


def marked(pods: Iterable[Pod], proven: frozenset[str], silent: frozenset[str], now: datetime) -> tuple[Pod, ...]:
    """The pods, those marked whose node is lost.

    Args:
        proven: nodes that the control plane says are lost: there, pods that are overdue may be deleted by force.
        silent: nodes that don't answer any more: nothing is to be expected of their pods.
    """
    return tuple(
        replace(pod, unreachable=True, node_lost=pod.node in proven and is_overdue(pod, now))
        if pod.node in proven or pod.node in silent
        else pod
        for pod in pods
    )
