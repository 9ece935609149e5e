"""The claim that is made for a job: whether the one that is there is the job's own, and what of it must be changed.

    none                              -> it is made, unless there were checkpoints on it
    made for a job of this name, free -> it is taken again
    anything else of that name        -> it is left alone, and the job waits

Rule: no claim is ever deleted here, and none is used that another one made or that is about to go.
"""

from __future__ import annotations

from deepseek_operator.api.checkpoint import VolumeTemplate
from deepseek_operator.api.fields import parse_quantity
from deepseek_operator.api.names import Reason
from deepseek_operator.api.v1alpha1 import DeepSeekJob, Status
from deepseek_operator.decide.types import Claim, Held, Manifest, Observation, PatchClaim
from deepseek_operator.render.claims import claim, own_claim, template_of
from deepseek_operator.render.identity import claim_labels, owner_reference


def in_the_way(job: DeepSeekJob, found: Claim | None, status: Status) -> Held | None:
    """Why the claim can't be the one of the job's template; None: it can, or may be made.

    Args:
        found: the claim of that name, if there is one.
    """
    template, name = template_of(job), own_claim(job)
    if template is None:
        return None
    if found is None:
        if status.checkpoint is None:
            return None
        return Held(
            Reason.VOLUME_LOST,
            f"claim {name} is gone, and with it the checkpoints up to step {status.checkpoint.step}; restore it under that "
            f"name with the labels {_labels(job)}, or delete the job and apply it anew to begin from scratch",
        )
    if found.made_for != job.metadata.name:
        return Held(
            Reason.VOLUME_TAKEN,
            f"claim {name} is there and was not made for this job; rename one of the two, or name the claim in "
            "checkpoint.volume.claimName instead of template. To hand it over to the job: "
            f"kubectl label pvc {name} -n {job.metadata.namespace} {_labels(job)}",
        )
    if found.terminating:
        return Held(
            Reason.VOLUME_GOING, f"claim {name} is being deleted; the job starts with a new one when it is gone"
        )
    if found.owner not in (None, job.metadata.uid):
        return Held(
            Reason.VOLUME_GOING,
            f"claim {name} goes with a former job of this name, and the job starts with a new one when it is gone. To keep "
            f"it: kubectl patch pvc {name} -n {job.metadata.namespace} --type=merge "
            """-p '{"metadata":{"ownerReferences":null}}'""",
        )
    return _differs(template, found)


def before_pods(seen: Observation, status: Status) -> tuple[Manifest, ...] | None:
    """What is to be made before any pod: the claim, or nothing while it can't be the job's; None: pods needn't wait for it."""
    job, template, name = seen.job, template_of(seen.job), own_claim(seen.job)
    if template is None or name is None or seen.claims is None or name not in seen.claims:
        return None
    found = seen.claims[name]
    if in_the_way(job, found, status) is not None:
        return ()
    return (claim(job, template),) if found is None else None


def claim_change(job: DeepSeekJob, found: Claim | None) -> PatchClaim | None:
    """What makes the job's own claim as its template says: its owner, and more room; None: it is so.

    Kubernetes lets a claim grow once it is bound.
    """
    template = template_of(job)
    if template is None or found is None or in_the_way(job, found, Status()) is not None:
        return None
    grows = found.bound and parse_quantity(found.size) < parse_quantity(template.size)
    owned, wanted = found.owner is not None, template.on_delete == "Delete"
    if not grows and owned == wanted:
        return None
    others = [owner for owner in found.owners if owner.get("uid") != job.metadata.uid]
    owners = [*others, owner_reference(job.metadata)] if wanted else others
    return PatchClaim(
        found.name,
        found.uid,
        found.version,
        owners=None if owned == wanted else tuple(owners),
        size=template.size if grows else None,
    )


def claim_patch(seen: Observation, status: Status) -> PatchClaim | None:
    """The change that is due. A job that has not begun has nothing to say about a claim that is kept."""
    name = own_claim(seen.job)
    if status.generation == 0 or seen.claims is None or name is None:
        return None
    return claim_change(seen.job, seen.claims.get(name))


def _differs(template: VolumeTemplate, found: Claim) -> Held | None:
    """A claim that is kept from a former job has what Kubernetes can't change."""
    same_class = template.storage_class_name in (None, found.storage_class)
    if same_class and set(template.access_modes) == set(found.asked_modes):
        return None
    wanted = " and ".join(template.access_modes) + (
        f" of class {template.storage_class_name}" if template.storage_class_name else ""
    )
    return Held(
        Reason.VOLUME_DIFFERS,
        f"claim {found.name}, which a former job of this name left, is {' and '.join(found.asked_modes)} of class "
        f"{found.storage_class or '(none)'}, and not {wanted}; write checkpoint.volume.template as the claim is, rename the "
        "job, or delete the claim with the checkpoints on it",
    )


def _labels(job: DeepSeekJob) -> str:
    return " ".join(f"{key}={value}" for key, value in claim_labels(job.metadata).items())
