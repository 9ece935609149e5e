"""The Ray cluster of a job, `spec.data.ray`: a head pod, and a raylet beside each worker.

Rule: Ray helps to prepare and to move data, and nothing that is trained depends on it; so there is nothing here by which its
loss could stop a job. The operator alone reads these fields: the containers learn what they need from their environment.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from deepseek_operator.api.fields import Image, Model, Quantity, Rule, parse_quantity
from deepseek_operator.api.resources import Resources

OBJECT_STORE_MIN = "80Mi"
"""Ray refuses less than 75 MiB."""
SHARED_MEMORY = "1Gi"
"""Size of /dev/shm of a job with Ray that says nothing else."""


RAYLET_MEMORY = "3Gi"
"""Memory limit of a raylet that has no resources of its own choice."""


def _head_resources() -> Resources:
    return Resources(requests={"cpu": "500m", "memory": "1Gi"}, limits={"memory": "2Gi"})


def _raylet_resources() -> Resources:
    return Resources(requests={"cpu": "500m", "memory": "1Gi"}, limits={"memory": RAYLET_MEMORY})


_OWN = "(has(self.raylet) && has(self.raylet.resources))"
_HAS_LIMIT = f"(!{_OWN} || (has(self.raylet.resources.limits) && 'memory' in self.raylet.resources.limits))"


class RayHead(Model):
    """The pod that knows the cluster. No task runs in it."""

    resources: Resources = Field(
        default_factory=_head_resources,
        description="Requests and limits. Default: 500m of cpu and 1Gi of memory, 2Gi at most.",
    )


class Raylet(Model):
    """What runs beside each worker: a node of the Ray cluster."""

    cpus: Annotated[int, Field(ge=1, le=1024)] = Field(
        1, description="Tasks of one CPU that Ray runs beside each worker at a time."
    )
    resources: Resources = Field(
        default_factory=_raylet_resources,
        description="Requests and limits, beside those of the worker. What Ray's tasks and its object store use counts here. "
        "Default: 500m of cpu and 1Gi of memory, 3Gi at most.",
    )


class Ray(Model):
    """A Ray cluster of the job's own, made and removed with its pods. Training goes on without it when it is lost."""

    rules: ClassVar = (
        Rule(
            f"!has(self.objectStore) || quantity(string(self.objectStore)).compareTo(quantity('{OBJECT_STORE_MIN}')) >= 0",
            f"objectStore is smaller than Ray allows; set {OBJECT_STORE_MIN} or more, or remove it",
            ".objectStore",
            holds=lambda ray: (
                ray.object_store is None or parse_quantity(ray.object_store) >= parse_quantity(OBJECT_STORE_MIN)
            ),
        ),
        Rule(
            f"!has(self.objectStore) || !{_HAS_LIMIT} || quantity(string(self.objectStore))"
            f".compareTo(quantity({_OWN} ? string(self.raylet.resources.limits['memory']) : '{RAYLET_MEMORY}')) < 0",
            "objectStore is memory of the raylet and doesn't fit into its limit; raise raylet.resources.limits.memory, or "
            "lower objectStore",
            ".objectStore",
            holds=lambda ray: (
                ray.object_store is None
                or "memory" not in ray.raylet.resources.limits
                or parse_quantity(ray.object_store) < parse_quantity(ray.raylet.resources.limits["memory"])
            ),
        ),
    )
    head: RayHead = Field(default_factory=RayHead, description="The head's pod.")
    raylet: Raylet = Field(default_factory=Raylet, description="What runs beside each worker.")
    object_store: Quantity | None = Field(
        None,
        description="Size of Ray's object store on each node, a part of workers.sharedMemory (which is 1Gi where a job with "
        "Ray says nothing). Default: half of that, and at most half of the raylet's memory limit; 80Mi at least.",
    )
    image: Image | None = Field(
        None,
        description="Image of the head and the raylets. It must have deepseek-trainer, and Python and Ray of the workers' "
        "versions. Default: the workers'.",
    )
    network_policy: bool = Field(
        True,
        description="Lets only pods of this job reach the ports of Ray, and leaves all others as open as a pod without a "
        "policy has them. Set false where policies of the namespace close ports of the workers: this one would open them "
        "again, and yours must then let the job's pods reach each other.",
    )


class Data(Model):
    """What the built-in trainer trains on. All but `ray` is the trainer's, and passed on as it is."""

    model_config = ConfigDict(extra="allow")

    ray: Ray | None = Field(
        None,
        description="A Ray cluster for the preparation of the data, over all nodes of the job: a head pod, and a raylet "
        "beside each worker. Without it nothing of Ray runs.",
    )

    def trainers(self) -> dict[str, Any]:
        """What the trainer reads, as it was written."""
        return dict(self.__pydantic_extra__ or {})


def fits_shared_memory(ray: Ray, shared_memory: str | None) -> bool:
    """Whether the object store is a part of /dev/shm."""
    store, whole = ray.object_store or OBJECT_STORE_MIN, shared_memory or SHARED_MEMORY
    return parse_quantity(store) <= parse_quantity(whole)


def object_store_bytes(ray: Ray, shared_memory: str | None) -> int:
    """Size of the object store on each node."""
    if ray.object_store is not None:
        return int(parse_quantity(ray.object_store))
    wholes = [
        shared_memory or SHARED_MEMORY,
        *(amount for name, amount in ray.raylet.resources.limits.items() if name == "memory"),
    ]
    half = min(parse_quantity(whole) for whole in wholes) / 2
    return max(int(half), int(parse_quantity(OBJECT_STORE_MIN)))


_TOO_LARGE = (
    "data.ray.objectStore (80Mi at least) is a part of workers.sharedMemory and doesn't fit into it; raise "
    "workers.sharedMemory (1Gi where it is not set), or lower objectStore"
)
FITS = Rule(
    "!has(self.data) || !has(self.data.ray) || (has(self.profile) && !has(self.workers.sharedMemory)) || "
    f"quantity(has(self.data.ray.objectStore) ? string(self.data.ray.objectStore) : '{OBJECT_STORE_MIN}')"
    f".compareTo(quantity(has(self.workers.sharedMemory) ? string(self.workers.sharedMemory) : '{SHARED_MEMORY}')) <= 0",
    _TOO_LARGE,
    ".data.ray.objectStore",
    holds=lambda spec: (
        spec.data is None
        or spec.data.ray is None
        or (spec.profile is not None and spec.workers.shared_memory is None)
        or fits_shared_memory(spec.data.ray, spec.workers.shared_memory)
    ),
)
"""Rule of the spec. What a profile says of sharedMemory is known only when the two are put together."""
