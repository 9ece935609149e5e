"""The PodDisruptionBudget of a job whose owner wants one: how many workers drains may take at a time.

Rule: one budget a job, named after it, over all of its pods. Kubernetes knows how many there should be from the job's own
scale. One that is wanted no more allows everything; it is deleted with its job, never by the operator.
"""

from __future__ import annotations

from typing import Any

from deepseek_operator.api.names import LABEL_JOB_UID
from deepseek_operator.api.v1alpha1 import DeepSeekJob, Status
from deepseek_operator.render.identity import child_metadata, job_labels

BUDGET = "PodDisruptionBudget"
ALL = "100%"


def disruption_budget(job: DeepSeekJob, status: Status) -> dict[str, Any] | None:
    """Manifest of the job's budget; None: it never had one."""
    wanted = job.spec.lifecycle.max_unavailable
    if wanted is None and not status.disruption_budget:
        return None
    return {
        "apiVersion": "policy/v1",
        "kind": BUDGET,
        "metadata": child_metadata(job, job.metadata.name, job_labels(job.metadata)),
        "spec": {
            "maxUnavailable": ALL if wanted is None else wanted,
            "selector": {"matchLabels": {LABEL_JOB_UID: job.metadata.uid}},
        },
    }
