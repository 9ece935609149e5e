"""The job as its profile completes it, and what keeps it from starting. Pure.

    not started   the profile as it is now; a problem with it holds the job until somebody mends it
    started       the profile as status.profile has it: a later edit or deletion of the profile changes nothing

Rule: decide and render see a job whose spec is resolved, whether it names a profile or not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from deepseek_operator.api.limits import violations
from deepseek_operator.api.names import Reason
from deepseek_operator.api.profile import DeepSeekProfile, Limits, ProfileSpec
from deepseek_operator.api.resolve import Misfit, resolve
from deepseek_operator.api.v1alpha1 import AppliedProfile, DeepSeekJob
from deepseek_operator.decide.types import Held

MAX_SNAPSHOT = 262_144
"""Characters of a profile's spec as JSON: with more, the job's status could outgrow what etcd stores."""


class UnusableSnapshotError(ValueError):
    """status.profile is not what the operator wrote, or the job no longer goes together with it; says what to do."""


@dataclass(frozen=True, slots=True)
class Effective:
    """A job with its resolved spec."""

    job: DeepSeekJob
    profile: AppliedProfile | None = None
    """What status.profile says, or shall say once the job has started."""
    held: Held | None = None
    """Why the job may not be started."""


def needs_profile(job: DeepSeekJob) -> bool:
    """Whether the profile has to be read: the job names one and has no snapshot of it."""
    return job.spec.profile is not None and job.status.profile is None


def take(raw: Mapping[str, Any]) -> AppliedProfile | Held:
    """A stored DeepSeekProfile as status.profile keeps it; Held when it can't be used."""
    name = raw["metadata"]["name"]
    try:
        profile = DeepSeekProfile.model_validate(raw)
    except ValidationError as error:
        return Held(Reason.PROFILE_UNUSABLE, f"DeepSeekProfile {name} is not valid: {_wrong(error)}; correct it")
    spec = profile.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    if len(json.dumps(spec)) > MAX_SNAPSHOT:
        wrong = f"DeepSeekProfile {name} is longer than {MAX_SNAPSHOT} characters and can't be kept in a job's status"
        return Held(Reason.PROFILE_UNUSABLE, f"{wrong}; move what is large, such as env, to a ConfigMap")
    meta = profile.metadata
    return AppliedProfile(name=name, uid=meta.uid, generation=meta.generation, spec=spec)


def effective(job: DeepSeekJob, found: AppliedProfile | Held | None = None) -> Effective:
    """The job with its resolved spec.

    Args:
        job: as it is stored.
        found: its profile as it was just read, where `needs_profile`.

    Raises:
        UnusableSnapshotError: the job has started and can't go on with what its status says.
    """
    if job.spec.profile is None:
        return Effective(_resolved(job, None))
    begun = job.status.generation > 0
    applied = job.status.profile or found
    if isinstance(applied, Held) or applied is None:
        if begun:
            raise UnusableSnapshotError(_lost(job.spec.profile, applied))
        return Effective(_resolved(job, None), held=applied)
    profile = _trusted(applied, job.spec.profile)
    try:
        whole = _resolved(job, profile)
    except Misfit as error:
        told = f"this job does not go together with DeepSeekProfile {applied.name}: {error}; change one of them"
        if begun:
            raise UnusableSnapshotError(told) from error
        return Effective(_resolved(job, None), applied, Held(Reason.PROFILE_UNUSABLE, told))
    held = _over_limits(whole, applied.name, profile)
    return Effective(_within_deadline(whole, profile.limits) if begun else whole, applied, held)


def _resolved(job: DeepSeekJob, profile: ProfileSpec | None) -> DeepSeekJob:
    return job.model_copy(update={"spec": resolve(job.spec, profile)})


def _trusted(applied: AppliedProfile, name: str) -> ProfileSpec:
    """The snapshot's spec, if it still is one: somebody may have written to the status."""
    remedy = "restore it, or remove status.profile, and the profile is read anew"
    if applied.name != name:
        raise UnusableSnapshotError(f"status.profile is of {applied.name}, but spec.profile is {name}; {remedy}")
    try:
        return ProfileSpec.model_validate(applied.spec)
    except ValidationError as error:
        raise UnusableSnapshotError(f"status.profile.spec is not valid: {_wrong(error)}; {remedy}") from error


def _over_limits(job: DeepSeekJob, name: str, profile: ProfileSpec) -> Held | None:
    found = violations(job.spec, profile.limits)
    if not found:
        return None
    return Held(Reason.PROFILE_LIMIT, f"more than DeepSeekProfile {name} allows: {'; '.join(found)}")


def _within_deadline(job: DeepSeekJob, limits: Limits) -> DeepSeekJob:
    """The job that can't outlive the longest deadline, whatever was edited since it started."""
    longest, lifecycle = limits.max_active_deadline_seconds, job.spec.lifecycle
    if longest is None or (lifecycle.active_deadline_seconds or longest + 1) <= longest:
        return job
    bounded = lifecycle.model_copy(update={"active_deadline_seconds": longest})
    return job.model_copy(update={"spec": job.spec.model_copy(update={"lifecycle": bounded})})


def _lost(name: str, held: Held | None) -> str:
    return f"status.profile is missing, and the profile can't be read anew: {held.message if held else name}"


def _wrong(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
