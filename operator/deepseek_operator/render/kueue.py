"""The Workload by which a job asks Kueue for quota, and what an admission adds to the pods.

Rule: one Workload a job, for the whole gang and over all replacements of its pods. Kueue sees no pod of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepseek_operator.api.v1alpha1 import DeepSeekJob
from deepseek_operator.render.identity import child_metadata, job_labels
from deepseek_operator.render.pods import worker_pod
from deepseek_operator.render.ray import head_pod

GROUP = "kueue.x-k8s.io"
API_VERSION = f"{GROUP}/v1beta2"
WORKLOAD = "Workload"
POD_SET = "workers"
HEAD_SET = "ray-head"
"""The pod set of the Ray head, of a job that has one."""
_OF_ONE_POD = ("hostname", "subdomain")


@dataclass(frozen=True, slots=True)
class Placement:
    """What the flavors and checks of an admission ask of every pod."""

    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PriorityClass:
    """A class of priority that a Workload may refer to."""

    group: str
    kind: str
    name: str


def workload_name(job_name: str) -> str:
    """Name of the job's Workload."""
    return f"deepseekjob-{job_name}"


def priority_class(job: DeepSeekJob) -> PriorityClass | None:
    """The class that says how urgent the job is: the gang's own in the queue, else that of its pods."""
    scheduling, workers = job.spec.scheduling, job.spec.workers
    if scheduling.priority_class_name:
        return PriorityClass(GROUP, "WorkloadPriorityClass", scheduling.priority_class_name)
    if workers.priority_class_name:
        return PriorityClass("scheduling.k8s.io", "PriorityClass", workers.priority_class_name)
    return None


def workload(job: DeepSeekJob, pods: int, priority: int | None) -> dict[str, Any]:
    """Manifest of the Workload for so many workers, and the Ray head if the job has one.

    Args:
        priority: the value of its class; None where it names none.
    """
    named = priority_class(job)
    urgency = {"priorityClassRef": {"group": named.group, "kind": named.kind, "name": named.name}} if named else {}
    sets = [_pod_set(POD_SET, pods, worker_pod(job, 0, 0, None))]
    if job.spec.ray is not None:
        sets.append(_pod_set(HEAD_SET, 1, head_pod(job, job.spec.ray, 0)))
    return {
        "apiVersion": API_VERSION,
        "kind": WORKLOAD,
        "metadata": child_metadata(job, workload_name(job.metadata.name), job_labels(job.metadata)),
        "spec": {
            "queueName": job.spec.scheduling.queue,
            "podSets": sets,
            **(urgency | {"priority": priority} if urgency else {}),
        },
    }


def _pod_set(name: str, count: int, pod: dict[str, Any]) -> dict[str, Any]:
    template = {key: value for key, value in pod["spec"].items() if key not in _OF_ONE_POD}
    return {"name": name, "count": count, "template": {"spec": template}}


def placed(pod: dict[str, Any], placement: Placement) -> dict[str, Any]:
    """The pod's manifest with what its admission asks for; that wins over what the job says."""
    meta, spec = pod["metadata"], pod["spec"]
    tolerations = [*spec.get("tolerations", ())]
    tolerations += [dict(one) for one in placement.tolerations if one not in tolerations]
    selector = {**spec.get("nodeSelector", {}), **placement.node_selector}
    optional = {"nodeSelector": selector, "tolerations": tolerations}
    return pod | {
        "metadata": meta
        | {
            "labels": {**placement.labels, **meta["labels"]},
            "annotations": {**placement.annotations, **meta["annotations"]},
        },
        "spec": spec | {key: value for key, value in optional.items() if value},
    }
