"""Where a worker pod may run: nodes, neighbours, scheduler, priority.

Rule: only what was asked for is written, but for two tolerations, and what the job says of its gang as a whole
(topology) is joined with what it says of each pod (affinity), never in its place.
"""

from __future__ import annotations

from typing import Any

from deepseek_operator.api.names import LABEL_JOB_UID
from deepseek_operator.api.v1alpha1 import DeepSeekJob, Workers
from deepseek_operator.render.gang import scheduler_name

LOST_NODE_S = 30
"""How long a pod stays bound to a node that doesn't answer."""
TOPOLOGY_WEIGHT = 100

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def placement(job: DeepSeekJob) -> dict[str, Any]:
    """Fields of a pod's spec; only those that were asked for."""
    workers = job.spec.workers
    wanted: dict[str, Any] = {
        "nodeSelector": dict(workers.node_selector),
        "affinity": affinity(job),
        "tolerations": _tolerations(workers),
        "priorityClassName": workers.priority_class_name,
        "runtimeClassName": workers.runtime_class_name,
        "schedulerName": scheduler_name(job),
    }
    return {key: value for key, value in wanted.items() if value}


def head_placement(job: DeepSeekJob) -> dict[str, Any]:
    """The same for the Ray head: on the workers' kind of nodes, and beside whoever is there."""
    wanted = job.spec.workers.affinity
    found = wanted.model_dump(by_alias=True, exclude_none=True, exclude_defaults=True) if wanted else {}
    nodes = {key: value for key, value in found.items() if key == "nodeAffinity"}
    return {key: value for key, value in (placement(job) | {"affinity": nodes}).items() if value}


def affinity(job: DeepSeekJob) -> dict[str, Any]:
    """The user's affinity, with the job's own pods as neighbours where a topology is asked for.

    The first pod of a gang finds no neighbour. The scheduler lets it pass: a pod that matches its own term may go
    anywhere while no other matches.
    """
    wanted, topology = job.spec.workers.affinity, job.spec.scheduling.topology
    found: dict[str, Any] = wanted.model_dump(by_alias=True, exclude_none=True, exclude_defaults=True) if wanted else {}
    if topology is None:
        return found
    near = {
        "labelSelector": {"matchLabels": {LABEL_JOB_UID: job.metadata.uid}},
        "topologyKey": topology.key,
    }
    kind, term = (
        (_REQUIRED, near)
        if topology.mode == "Required"
        else (_PREFERRED, {"weight": TOPOLOGY_WEIGHT, "podAffinityTerm": near})
    )
    neighbours = found.get("podAffinity", {})
    return found | {"podAffinity": neighbours | {kind: [*neighbours.get(kind, ()), term]}}


def _tolerations(workers: Workers) -> list[dict[str, Any]]:
    """The user's, and ours for nodes that are gone, so that a gang waits for half a minute and not for five.

    Kubernetes evicts pods from a node that doesn't answer after 300 s, unless the pod says otherwise.
    """
    users = [toleration.model_dump(by_alias=True, exclude_none=True) for toleration in workers.tolerations]
    named = {toleration.key for toleration in workers.tolerations}
    ours = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": LOST_NODE_S}
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        if key not in named and None not in named
    ]
    return [*users, *ours]
