"""The worker pod's manifest.

Rules: it satisfies the *restricted* pod security standard; it carries no API token; nothing in it depends on
anything but the job, the slot, the incarnation and the membership that it is born with.
"""

from __future__ import annotations

from typing import Any

from deepseek_operator.api.names import ANNOTATION_MEMBERSHIP, ANNOTATION_RUN_CONFIG
from deepseek_operator.api.v1alpha1 import DeepSeekJob
from deepseek_operator.render.containers import helpers, worker
from deepseek_operator.render.gang import group_annotations, group_labels
from deepseek_operator.render.grace import grace_s
from deepseek_operator.render.identity import child_metadata, pod_labels, pod_name, ray_labels, service_name
from deepseek_operator.render.membership import Membership, membership_json
from deepseek_operator.render.placement import placement
from deepseek_operator.render.runconfig import run_config_json
from deepseek_operator.render.volumes import pod_volumes

USER_ID = 65532
"""Uid and gid of the worker: nobody's account on any node."""


def worker_pod(job: DeepSeekJob, slot: int, incarnation: int, membership: Membership | None) -> dict[str, Any]:
    """Manifest of one worker pod, with its part in the generation that it is born into; None: it is told later."""
    meta, workers = job.metadata, job.spec.workers
    name = pod_name(meta.name, slot, incarnation)
    optional = {
        "serviceAccountName": workers.service_account_name,
        "imagePullSecrets": [{"name": secret.name} for secret in workers.image_pull_secrets],
        "initContainers": helpers(job),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **child_metadata(job, name, workers.labels | group_labels(job) | _labels(job, slot, incarnation)),
            "annotations": workers.annotations | group_annotations(job) | _annotations(job, membership),
        },
        "spec": {
            "restartPolicy": "Never",
            "hostname": name,
            "subdomain": service_name(meta.name),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": grace_s(job),
            "securityContext": pod_security(),
            **placement(job),
            **{key: value for key, value in optional.items() if value},
            "containers": [worker(job)],
            "volumes": pod_volumes(job),
        },
    }


def pod_security() -> dict[str, Any]:
    """The security context of every pod."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "fsGroup": USER_ID,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _labels(job: DeepSeekJob, slot: int, incarnation: int) -> dict[str, str]:
    ray = ray_labels(job.metadata) if job.spec.ray is not None else {}
    return pod_labels(job.metadata, slot, incarnation) | ray


def _annotations(job: DeepSeekJob, membership: Membership | None) -> dict[str, str]:
    """Ours, which the pod sees as files."""
    texts = {
        ANNOTATION_MEMBERSHIP: membership_json(membership) if membership is not None else None,
        ANNOTATION_RUN_CONFIG: run_config_json(job),
    }
    return {name: text for name, text in texts.items() if text is not None}
