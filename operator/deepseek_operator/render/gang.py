"""The PodGroup of a gang scheduler, and what the pods carry so that the scheduler finds it.

Rule: one group a job, named after it. Replacements belong to the same group, and its size is that of the gang.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from deepseek_operator.api.v1alpha1 import DeepSeekJob, Workers
from deepseek_operator.render.identity import child_metadata, job_labels

POD_GROUP = "PodGroup"
_QUANTITY = re.compile(r"^([+-]?[0-9.]+)(.*)$")


@dataclass(frozen=True, slots=True)
class GangScheduler:
    """A scheduler that starts all pods of a PodGroup, or none."""

    api_version: str
    """Of its PodGroup."""
    name: str
    """schedulerName of the pods, as its project installs it."""
    label: str | None = None
    """Pods name their group in this label."""
    annotations: tuple[str, ...] = ()
    """Pods name their group in these annotations."""


VOLCANO = GangScheduler(
    "scheduling.volcano.sh/v1beta1",
    "volcano",
    annotations=("scheduling.k8s.io/group-name", "scheduling.volcano.sh/group-name"),
)
COSCHEDULING = GangScheduler(
    "scheduling.x-k8s.io/v1alpha1", "scheduler-plugins-scheduler", label="scheduling.x-k8s.io/pod-group"
)


def gang_scheduler(job: DeepSeekJob) -> GangScheduler | None:
    """The scheduler that wants a PodGroup of this job; None: there is none."""
    return {"Volcano": VOLCANO, "Coscheduling": COSCHEDULING}.get(job.spec.scheduling.gang or "")


def scheduler_name(job: DeepSeekJob) -> str | None:
    """The scheduler of the pods; None: the cluster's default scheduler."""
    scheduler = gang_scheduler(job)
    return job.spec.scheduling.scheduler_name or (scheduler.name if scheduler else None)


def group_labels(job: DeepSeekJob) -> dict[str, str]:
    """Labels by which pods name their group."""
    scheduler = gang_scheduler(job)
    return {scheduler.label: job.metadata.name} if scheduler and scheduler.label else {}


def group_annotations(job: DeepSeekJob) -> dict[str, str]:
    """Annotations by which pods name their group."""
    scheduler = gang_scheduler(job)
    return dict.fromkeys(scheduler.annotations, job.metadata.name) if scheduler else {}


def pod_group(job: DeepSeekJob, members: int) -> dict[str, Any] | None:
    """Manifest of the job's PodGroup for so many members; None: the job needs none."""
    scheduler = gang_scheduler(job)
    if scheduler is None:
        return None
    spec = _volcano_spec(job) if scheduler is VOLCANO else _coscheduling_spec(job)
    return {
        "apiVersion": scheduler.api_version,
        "kind": POD_GROUP,
        "metadata": child_metadata(job, job.metadata.name, job_labels(job.metadata)),
        "spec": {"minMember": members, "minResources": _resources(job.spec.workers, members)}
        | {key: value for key, value in spec.items() if value is not None},
    }


def _volcano_spec(job: DeepSeekJob) -> dict[str, Any]:
    scheduling, workers = job.spec.scheduling, job.spec.workers
    return {
        "queue": scheduling.queue,
        "priorityClassName": scheduling.priority_class_name or workers.priority_class_name,
    }


def _coscheduling_spec(job: DeepSeekJob) -> dict[str, Any]:
    return {"scheduleTimeoutSeconds": job.spec.lifecycle.start_deadline_seconds}


def _resources(workers: Workers, members: int) -> dict[str, str]:
    """What the training containers of all members request together; a limit without a request counts as one."""
    each = {**workers.resources.limits, **workers.resources.requests}
    return {name: times(amount, members) for name, amount in sorted(each.items())}


def times(quantity: str, count: int) -> str:
    """A quantity so many times, in its own unit: 500m three times is 1500m.

    Raises:
        ValueError: it is no quantity.
    """
    match = _QUANTITY.match(quantity)
    if match is None:
        raise ValueError(f"{quantity!r} is no quantity; write a number with a unit, for example 500m or 16Gi")
    amount = format((Decimal(match[1]) * count).normalize(), "f")
    return f"{amount}{match[2]}"
