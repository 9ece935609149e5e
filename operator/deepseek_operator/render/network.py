"""The headless Service that gives every worker pod a DNS name.

Rule: it publishes addresses of pods that are not ready, because the workers must find each other before any of
them can be ready.
"""

from __future__ import annotations

from typing import Any

from deepseek_operator.api.names import AGENT_PORT, LABEL_JOB_UID, MASTER_PORT
from deepseek_operator.api.v1alpha1 import DeepSeekJob
from deepseek_operator.render.identity import child_metadata, job_labels, service_name


def headless_service(job: DeepSeekJob) -> dict[str, Any]:
    """Manifest of the job's Service."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(job, service_name(job.metadata.name), job_labels(job.metadata)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {LABEL_JOB_UID: job.metadata.uid},
            "ports": [
                {"name": "agent", "port": AGENT_PORT, "targetPort": AGENT_PORT, "protocol": "TCP"},
                {"name": "store", "port": MASTER_PORT, "targetPort": MASTER_PORT, "protocol": "TCP"},
            ],
        },
    }
