"""The spec that a job runs with: its own, completed by its profile and by the documented defaults. Pure.

Rule: `TABLE` is the one place that says how two values become one and what stands where neither is given. Whoever
reads a resolved spec repeats no default. docs/api.md shows the same table.

Fields of a profile that have no row in DEFAULTS stay open where nobody fills them: the cluster, the container runtime
or NCCL then has its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from deepseek_operator.api import ray
from deepseek_operator.api.fields import Model
from deepseek_operator.api.profile import ProfileSpec
from deepseek_operator.api.resources import Resources, limit_is_request
from deepseek_operator.api.v1alpha1 import Spec
from deepseek_operator.api.workers import AUTO

M = TypeVar("M", bound=Model)


class Misfit(ValueError):
    """A job and its profile are each right and don't go together; the message names fields and what is wrong."""


@dataclass(frozen=True, slots=True)
class Merge:
    """How the job's value and the profile's become one; both have the field's type."""

    says: str
    of: Callable[[Any, Any], Any]


def _amounts(job: Resources, profile: Resources) -> Resources:
    """Each amount by itself; an extended resource, whose request must be its limit, as one."""
    own = {name for name in (*job.requests, *job.limits) if limit_is_request(name)}

    def kept(amounts: Mapping[str, str]) -> dict[str, str]:
        return {name: amount for name, amount in amounts.items() if name not in own}

    return Resources.model_construct(
        requests=kept(profile.requests) | job.requests, limits=kept(profile.limits) | job.limits
    )


def _by_name(job: Iterable[Any], profile: Iterable[Any]) -> list[Any]:
    named = {entry.name for entry in job}
    return [*(entry for entry in profile if entry.name not in named), *job]


def _both(job: list[Any], profile: list[Any]) -> list[Any]:
    return [*job, *(entry for number, entry in enumerate(profile) if entry not in (*job, *profile[:number]))]


JOB_FIRST = Merge("the job's, else the profile's", lambda job, profile: profile if job is None else job)
JOB_KEYS = Merge("both; the job's where both have a key", lambda job, profile: {**profile, **job})
POOL_KEYS = Merge(
    "both; the profile's where both have a key: it is the node pool", lambda job, profile: {**job, **profile}
)
BY_NAME = Merge("both, the profile's first; the job's where both have a name", _by_name)
BOTH = Merge("both, the job's first, each entry once", _both)
BY_AMOUNT = Merge(
    "each amount: the job's, else the profile's; an extended resource such as nvidia.com/gpu as a whole", _amounts
)

TABLE: dict[str, dict[str, Merge]] = {
    "workers": {
        "proc_per_node": JOB_FIRST,
        "image": JOB_FIRST,
        "image_pull_policy": JOB_FIRST,
        "image_pull_secrets": BOTH,
        "resources": BY_AMOUNT,
        "env": BY_NAME,
        "node_selector": POOL_KEYS,
        "affinity": JOB_FIRST,
        "tolerations": BOTH,
        "priority_class_name": JOB_FIRST,
        "runtime_class_name": JOB_FIRST,
        "labels": JOB_KEYS,
        "annotations": JOB_KEYS,
        "shared_memory": JOB_FIRST,
    },
    "communication": dict.fromkeys(
        (
            *("interface", "infiniband", "ib_hca", "ib_gid_index", "ib_timeout"),
            *("debug", "timeout_seconds"),
        ),
        JOB_FIRST,
    ),
    "scheduling": dict.fromkeys(
        ("gang", "queue", "priority_class_name", "scheduler_name", "spares", "topology"),
        JOB_FIRST,
    ),
    "lifecycle": dict.fromkeys(
        ("active_deadline_seconds", "start_deadline_seconds", "ttl_seconds_after_finished", "clean_pod_policy"),
        JOB_FIRST,
    ),
}
"""How each field that a profile may have is merged, by section of the spec."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "workers": {"proc_per_node": AUTO, "image_pull_policy": "IfNotPresent"},
    "communication": {"infiniband": True, "debug": "WARN", "timeout_seconds": 600},
    "scheduling": {"gang": "None", "spares": 0},
    "lifecycle": {"clean_pod_policy": "Running"},
}
"""What stands where neither the job nor its profile says anything."""


WITH_RAY: dict[str, Any] = {"shared_memory": ray.SHARED_MEMORY}
"""The same for the workers of a job with data.ray."""


def resolve(spec: Spec, profile: ProfileSpec | None) -> Spec:
    """The spec with everything filled in. Resolving the answer again changes nothing.

    Args:
        spec: as the user wrote it.
        profile: the one that the job names; None: there is none, or it isn't known.

    Raises:
        Misfit: the job and the profile don't go together, for example a request above the other's limit.
    """
    if profile is not None:
        spec = _with_profile(spec, profile)
    # The defaults break no rule, so nothing is validated again: this is done in each pass over each job.
    defaults = DEFAULTS | {"workers": DEFAULTS["workers"] | WITH_RAY} if spec.ray is not None else DEFAULTS
    return spec.model_copy(update={name: _completed(getattr(spec, name), defaults[name]) for name in defaults})


def _with_profile(spec: Spec, profile: ProfileSpec) -> Spec:
    merged, problems = {}, []
    for name in TABLE:
        try:
            merged[name] = _merged(name, spec, profile)
        except ValidationError as error:
            problems += [_told(name, *problem["loc"], message=problem["msg"]) for problem in error.errors()]
    if spec.workers.image is None and profile.workers.image is None:
        problems.append("workers.image: neither the job nor the profile has one")
    if spec.ray is not None and not ray.fits_shared_memory(spec.ray, _shared_memory(merged)):
        problems.append(f"data.ray.objectStore: {ray.FITS.message}")
    if problems:
        raise Misfit("; ".join(problems))
    return _rebuilt(spec, merged)


def _shared_memory(merged: Mapping[str, Any]) -> str | None:
    return merged["workers"].shared_memory if "workers" in merged else None


def _merged(name: str, spec: Spec, profile: ProfileSpec) -> Model:
    job, other = getattr(spec, name), getattr(profile, name)
    fields = {field: merge.of(getattr(job, field), getattr(other, field)) for field, merge in TABLE[name].items()}
    if "resources" in fields:
        fields["resources"] = fields["resources"].model_dump()
    section: Model = _rebuilt(job, fields)
    return section


def _rebuilt(model: M, fields: Mapping[str, Any]) -> M:
    """The model with other values; it obeys its bounds and rules again."""
    return type(model)(**{name: getattr(model, name) for name in type(model).model_fields} | dict(fields))


def _completed(section: M, defaults: Mapping[str, Any]) -> M:
    missing = {field: value for field, value in defaults.items() if getattr(section, field) is None}
    return section.model_copy(update=missing) if missing else section


def _told(*location: int | str, message: str) -> str:
    return f"{'.'.join(map(str, location))}: {message.removeprefix('Value error, ')}"
