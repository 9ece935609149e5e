"""The claims that a job's checkpoints are on: its own, which may be made for it, and another's that it begins with.

Rule: a claim that is kept has no owner, so that nothing which happens to the job can delete it. Its labels say whose it is.
"""

from __future__ import annotations

from typing import Any

from deepseek_operator.api.checkpoint import VolumeTemplate
from deepseek_operator.api.v1alpha1 import DeepSeekJob
from deepseek_operator.render.identity import claim_labels, claim_name, owner_reference

CLAIM = "PersistentVolumeClaim"


def own_claim(job: DeepSeekJob) -> str | None:
    """Name of the claim that the job's checkpoints are on; None: it has none."""
    volume = job.spec.checkpoint.volume if job.spec.checkpoint is not None else None
    if volume is None:
        return None
    return volume.claim_name or claim_name(job.metadata.name)


def other_claim(job: DeepSeekJob) -> str | None:
    """Name of the claim with the checkpoint that the job begins with; None: there is none, or it is the job's own."""
    wanted = job.spec.checkpoint.resume_from if job.spec.checkpoint is not None else None
    if wanted is None or wanted.claim_name == own_claim(job):
        return None
    return wanted.claim_name


def template_of(job: DeepSeekJob) -> VolumeTemplate | None:
    """What the job's claim is made of; None: it is given."""
    volume = job.spec.checkpoint.volume if job.spec.checkpoint is not None else None
    return volume.template if volume is not None else None


def claim(job: DeepSeekJob, template: VolumeTemplate) -> dict[str, Any]:
    """Manifest of the claim that is made for the job."""
    meta = job.metadata
    owners = {"ownerReferences": [owner_reference(meta)]} if template.on_delete == "Delete" else {}
    classed = {"storageClassName": template.storage_class_name} if template.storage_class_name is not None else {}
    return {
        "apiVersion": "v1",
        "kind": CLAIM,
        "metadata": {
            "name": claim_name(meta.name),
            "namespace": meta.namespace,
            "labels": claim_labels(meta),
            **owners,
        },
        "spec": {
            "accessModes": list(template.access_modes),
            "resources": {"requests": {"storage": template.size}},
            **classed,
        },
    }
