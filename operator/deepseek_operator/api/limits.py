"""What a profile allows: every field of a resolved spec that asks for more, with the wish and the limit. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from deepseek_operator.api.fields import parse_quantity
from deepseek_operator.api.profile import Limits
from deepseek_operator.api.resources import Resources
from deepseek_operator.api.v1alpha1 import Spec


def violations(spec: Spec, limits: Limits) -> list[str]:
    """One text for each wish above its limit, in a fixed order; empty when the job may start.

    Args:
        spec: resolved.
        limits: those of its profile.
    """
    return [
        *_counts(spec, limits),
        *_resources(spec, limits),
        *_head(spec, limits),
        *_deadline(spec, limits),
        *_images(spec, limits),
    ]


def _pods(spec: Spec) -> int:
    return spec.workers.replicas + (spec.scheduling.spares or 0)


def _counts(spec: Spec, limits: Limits) -> Iterator[str]:
    wishes = [
        ("workers.replicas", spec.workers.replicas, limits.max_replicas),
        (
            "workers.replicas and scheduling.spares",
            _pods(spec),
            limits.max_replicas if spec.scheduling.spares else None,
        ),
        ("elastic.maxReplicas", spec.elastic.max_replicas if spec.elastic else 0, limits.max_replicas),
        ("workers.procPerNode", spec.workers.processes(), limits.max_proc_per_node),
    ]
    for field, wish, most in wishes:
        if most is not None and wish > most:
            yield f"{field} is {wish}, at most {most} allowed"


def _resources(spec: Spec, limits: Limits) -> Iterator[str]:
    workers = spec.workers
    for name, most in limits.max_resources.items():
        for kind in ("requests", "limits"):
            wish = _of_the_pod(spec, kind, name)
            if wish > parse_quantity(most):
                field, shown = f"workers.resources.{kind}[{name}]", getattr(workers.resources, kind).get(name)
                alone = shown is not None and parse_quantity(shown) == wish
                yield f"{field} is {shown if alone else f'{wish.normalize():f} over all containers'}, at most {most} allowed"


def _head(spec: Spec, limits: Limits) -> Iterator[str]:
    """The head of Ray has a pod of its own."""
    resources = spec.ray.head.resources if spec.ray is not None else Resources()
    for name, most in limits.max_resources.items():
        for kind in ("requests", "limits"):
            wish = getattr(resources, kind).get(name, "0")
            if parse_quantity(wish) > parse_quantity(most):
                yield f"data.ray.head.resources.{kind}[{name}] is {wish}, at most {most} allowed"


def _of_the_pod(spec: Spec, kind: str, name: str) -> Decimal:
    """What a pod asks for at once: the worker and its sidecars, or the sidecars and one init container, if that is more.
    The raylet is a sidecar."""
    workers = spec.workers
    sidecars = [helper.resources for helper in workers.sidecars]
    if spec.ray is not None:
        sidecars.append(spec.ray.raylet.resources)

    def amount(resources: Resources) -> Decimal:
        return parse_quantity(getattr(resources, kind).get(name, "0"))

    beside = sum(map(amount, sidecars), Decimal(0))
    return beside + max([amount(workers.resources), *(amount(helper.resources) for helper in workers.init_containers)])


def _deadline(spec: Spec, limits: Limits) -> Iterator[str]:
    wish, most = spec.lifecycle.active_deadline_seconds, limits.max_active_deadline_seconds
    if most is not None and (wish is None or wish > most):
        yield f"lifecycle.activeDeadlineSeconds is {'not set' if wish is None else wish}, at most {most} allowed"


def _images(spec: Spec, limits: Limits) -> Iterator[str]:
    workers = spec.workers
    wishes = [("workers.image", workers.image), ("data.ray.image", spec.ray.image if spec.ray is not None else None)]
    for field, helpers in (("initContainers", workers.init_containers), ("sidecars", workers.sidecars)):
        wishes += [(f"workers.{field}[{helper.name}].image", helper.image) for helper in helpers]
    wishes += [(f"workers.volumes[{v.name}].image", v.image.reference) for v in workers.volumes if v.image]
    allowed = tuple(limits.image_prefixes)
    for field, wish in wishes:
        if allowed and wish is not None and not wish.startswith(allowed):
            yield f"{field} is {wish}, which must begin with {' or '.join(allowed)}"
