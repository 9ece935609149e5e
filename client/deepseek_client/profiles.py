"""A job's manifest together with its profile, for what runs without a cluster: the operator's own merge and limits.

The profile is another document of the job's file, or a file of its own. Nothing is guessed: a profile that is named
and not given is an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepseek_operator.api.names import KIND, PROFILE_KIND
from deepseek_operator.api.profile import DeepSeekProfile
from deepseek_operator.api.v1alpha1 import AppliedProfile, DeepSeekJob, Status
from deepseek_operator.decide.effective import Effective, effective, take
from deepseek_operator.decide.types import Held
from pydantic import ValidationError

from deepseek_client import manifest
from deepseek_client.errors import ManifestError
from deepseek_client.layers import Layers

Profiles = dict[str, AppliedProfile]
ALONE = Layers()
"""A manifest with nothing below or above it."""


def complete(path: Path, profile_file: Path | None = None, layers: Layers = ALONE) -> Effective:
    """The job of a file as the operator would start it.

    Args:
        path: a DeepSeekJob, and maybe DeepSeekProfiles beside it.
        profile_file: more DeepSeekProfiles.
        layers: presets below the job, and other values for its fields.

    Raises:
        ManifestError: something is wrong, the job's profile is not given, or it doesn't let the job start.
    """
    jobs, profiles = read(path, profile_file, layers)
    if len(jobs) != 1:
        raise ManifestError(str(path), [f"expected one {KIND}, found {len(jobs)}"])
    job = jobs[0].model_copy(update={"status": Status()})  # a job that was read from a cluster begins anew here
    whole = effective(job, _chosen(job, profiles, path, profile_file))
    if whole.held is not None:
        raise ManifestError(str(path), [whole.held.message])
    return whole


def read(path: Path, profile_file: Path | None = None, layers: Layers = ALONE) -> tuple[list[DeepSeekJob], Profiles]:
    """The jobs and profiles of the files, each valid by itself.

    Args:
        layers: around every job.

    Raises:
        ManifestError: with one line for each wrong field.
    """
    jobs: list[DeepSeekJob] = []
    profiles: Profiles = {}
    for source in filter(None, (path, profile_file)):
        documents = manifest.documents(source)
        for document in documents:
            kind = document.get("kind") if isinstance(document, dict) else None
            if kind == PROFILE_KIND:
                profile = parse(document, str(source))
                profiles[profile.name] = profile
            elif isinstance(document, dict) and source == path and (kind == KIND or len(documents) == 1):
                jobs.append(manifest.parse(layers.around(document), layers.called(str(source))))
            else:
                wanted = f"{KIND} or {PROFILE_KIND}" if source == path else PROFILE_KIND
                raise ManifestError(str(source), [f"expected a {wanted} object, found {kind or 'something else'}"])
    if not jobs and not profiles:
        raise ManifestError(str(path), [f"expected a {KIND} object, found no document"])
    return jobs, profiles


def parse(document: dict[str, Any], source: str) -> AppliedProfile:
    """Validates a DeepSeekProfile as the API server would.

    Raises:
        ManifestError: with one line for each wrong field.
    """
    problems = list(manifest.identity(document, PROFILE_KIND))
    metadata = document.get("metadata")
    if not (isinstance(metadata, dict) and isinstance(metadata.get("name"), str)):
        problems.append("metadata.name: required; give the profile a name")
    try:
        DeepSeekProfile.model_validate({"spec": document.get("spec") or {}})
    except ValidationError as error:
        for problem in error.errors():
            problems += manifest.describe(problem, DeepSeekProfile)
    if problems:
        raise ManifestError(source, problems)
    found = take(document)
    if isinstance(found, Held):
        raise ManifestError(source, [found.message])
    return found


def _chosen(job: DeepSeekJob, profiles: Profiles, path: Path, profile_file: Path | None) -> AppliedProfile | None:
    name = job.spec.profile
    if name is None:
        if profile_file is not None:
            wrong = f"spec.profile: the job names no profile; name one of {profile_file}, or leave out --profile-file"
            raise ManifestError(str(path), [wrong])
        return None
    if name not in profiles:
        given = f"only {', '.join(sorted(profiles))} here" if profiles else "not here"
        remedy = f"give its file with --profile-file, or add the {PROFILE_KIND} to this file after a line of ---"
        raise ManifestError(str(path), [f"spec.profile: {name} is {given}; {remedy}"])
    return profiles[name]
