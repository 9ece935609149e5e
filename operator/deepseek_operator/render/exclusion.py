"""Keeping a pod away from nodes by their names, whatever else its affinity says."""

from __future__ import annotations

from typing import Any

_NODE = "nodeAffinity"
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_TERMS = "nodeSelectorTerms"


def away_from(pod: dict[str, Any], excluded: tuple[str, ...]) -> dict[str, Any]:
    """The pod's manifest with these nodes ruled out; the same when there are none.

    A node must satisfy one of the terms, so each of them gets the condition. Kubernetes takes one name a field.
    """
    if not excluded:
        return pod
    affinity = pod["spec"].get("affinity", {})
    node_affinity = affinity.get(_NODE, {})
    terms = node_affinity.get(_REQUIRED, {}).get(_TERMS) or [{}]
    fields = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in sorted(excluded)]
    narrowed = [{**term, "matchFields": [*term.get("matchFields", ()), *fields]} for term in terms]
    node_affinity = {**node_affinity, _REQUIRED: {_TERMS: narrowed}}
    return {**pod, "spec": {**pod["spec"], "affinity": {**affinity, _NODE: node_affinity}}}
