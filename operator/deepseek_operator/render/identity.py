"""Who is who: deterministic names, labels and owner references of a job's children.

Rule: a name follows from the job, the slot and the incarnation alone, so that a second creation is the same
object, and a replacement never waits for the name of a predecessor that is stuck in Terminating.
"""

from __future__ import annotations

from deepseek_operator.api.names import (
    API_VERSION,
    KIND,
    LABEL_INCARNATION,
    LABEL_JOB_NAME,
    LABEL_JOB_UID,
    LABEL_MANAGED_BY,
    LABEL_RAY,
    LABEL_RAY_HEAD,
    LABEL_SLOT,
    MANAGER,
)
from deepseek_operator.api.v1alpha1 import DeepSeekJob, ObjectMeta


def pod_name(job_name: str, slot: int, incarnation: int) -> str:
    """Name of a worker pod; also its hostname."""
    return f"{job_name}-worker-{slot}-{incarnation}"


def service_name(job_name: str) -> str:
    """Name of the headless Service; also the subdomain of the worker pods."""
    return f"{job_name}-workers"


def pod_dns(meta: ObjectMeta, slot: int, incarnation: int) -> str:
    """DNS name of a worker pod, valid in every namespace and before the pod is ready."""
    return f"{pod_name(meta.name, slot, incarnation)}.{service_name(meta.name)}.{meta.namespace}.svc"


def job_labels(meta: ObjectMeta) -> dict[str, str]:
    """Labels of every child; the UID tells a job's children from those of a predecessor of the same name."""
    return {LABEL_MANAGED_BY: MANAGER, LABEL_JOB_NAME: meta.name, LABEL_JOB_UID: meta.uid}


def pod_labels(meta: ObjectMeta, slot: int, incarnation: int) -> dict[str, str]:
    """Labels of a worker pod."""
    return job_labels(meta) | {LABEL_SLOT: str(slot), LABEL_INCARNATION: str(incarnation)}


def head_name(job_name: str, number: int) -> str:
    """Name of the pod of the Ray head."""
    return f"{job_name}-ray-{number}"


def ray_name(job_name: str) -> str:
    """Name of the head's Service, and of the NetworkPolicy."""
    return f"{job_name}-ray"


def ray_dns(meta: ObjectMeta) -> str:
    """DNS name of the head, whichever it is."""
    return f"{ray_name(meta.name)}.{meta.namespace}.svc"


def token_name(meta: ObjectMeta) -> str:
    """Name of the Secret. It has a part of the UID: one that exists is this very job's, and nobody needs to read it."""
    return f"{meta.name}-ray-{meta.uid[:8]}"


def claim_name(job_name: str) -> str:
    """Name of the claim for checkpoints that is made for a job. It has no UID in it: the next job of that name finds it."""
    return f"{job_name}-checkpoints"


def claim_labels(meta: ObjectMeta) -> dict[str, str]:
    """Labels of that claim, by which a job of that name knows it for its own."""
    return {LABEL_MANAGED_BY: MANAGER, LABEL_JOB_NAME: meta.name}


def ray_labels(meta: ObjectMeta) -> dict[str, str]:
    """The label of all pods of a job's Ray cluster."""
    return {LABEL_RAY: meta.uid}


def head_labels(meta: ObjectMeta, number: int) -> dict[str, str]:
    """Labels of the head's pod: without those by which workers are found."""
    found = {LABEL_MANAGED_BY: MANAGER, LABEL_JOB_NAME: meta.name}
    return found | ray_labels(meta) | {LABEL_RAY_HEAD: str(number)}


def owner_reference(meta: ObjectMeta) -> dict[str, object]:
    """The reference by which Kubernetes deletes a child with its job."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": meta.name,
        "uid": meta.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def child_metadata(job: DeepSeekJob, name: str, labels: dict[str, str]) -> dict[str, object]:
    """Metadata that every child has."""
    return {
        "name": name,
        "namespace": job.metadata.namespace,
        "labels": labels,
        "ownerReferences": [owner_reference(job.metadata)],
    }
