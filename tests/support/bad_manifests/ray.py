"""The Ray cluster of a job: sizes that don't fit into each other."""

from __future__ import annotations

from support.bad_manifests.case import at, trainer

RAY = "data/ray"
SHARED = "is a part of workers.sharedMemory and doesn't fit into it"

BAD = [
    trainer("ray-unknown-field", {"data/ray": {"heads": 2}}, 'unknown field "spec.data.ray.heads"'),
    at("data/ray/raylet/cpus", "ray-no-cpus", 0, "greater than or equal to 1"),
    at("data/ray/image", "ray-image", "a b", "write it as ghcr.io/you/trainer:1.2"),
    at("data/ray/objectStore", "ray-store-no-quantity", "2 Gi", "500m, 4, 16Gi"),
    at("data/ray/objectStore", "ray-store-too-small", "64Mi", "set 80Mi or more, or remove it"),
    trainer(
        "ray-store-above-the-shared-memory",
        {"data/ray": {"objectStore": "2Gi"}, "workers/sharedMemory": "1Gi"},
        "spec.data.ray.objectStore",
        SHARED,
    ),
    trainer("ray-store-above-the-default", {"data/ray": {"objectStore": "2Gi"}}, "spec.data.ray.objectStore", SHARED),
    trainer("ray-without-room", {"data/ray": {}, "workers/sharedMemory": "64Mi"}, SHARED),
    trainer(
        "ray-store-above-the-raylets-memory",
        {"data/ray": {"objectStore": "4Gi"}, "workers/sharedMemory": "8Gi"},
        "spec.data.ray.objectStore",
        "raise raylet.resources.limits.memory",
    ),
    trainer(
        "ray-store-as-large-as-the-raylets-memory",
        {
            "data/ray": {"objectStore": "1Gi", "raylet": {"resources": {"limits": {"memory": "1Gi"}}}},
            "workers/sharedMemory": "8Gi",
        },
        "spec.data.ray.objectStore",
        "raise raylet.resources.limits.memory",
    ),
    trainer(
        "ray-head-request-above-limit",
        {"data/ray": {"head": {"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}}},
        "spec.data.ray.head.resources.requests",
        "raise the limit or lower the request",
    ),
]
