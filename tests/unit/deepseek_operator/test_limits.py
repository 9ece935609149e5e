"""A profile's limits: each wish above one is named with the wish and the limit, all of them at once."""

from __future__ import annotations

from typing import Any

import pytest
from deepseek_operator.api.limits import violations
from deepseek_operator.api.profile import Limits
from deepseek_operator.api.resolve import resolve
from deepseek_operator.api.v1alpha1 import Spec

GPU = "nvidia.com/gpu"


def helper(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "image": "ghcr.io/us/tool:1", **fields}


def gpus(count: int) -> dict[str, Any]:
    return {"limits": {GPU: count}}


def found(workers: dict[str, Any], limits: dict[str, Any], **fields: Any) -> list[str]:
    wire = {"workers": {"image": "ghcr.io/us/trainer:1"} | workers, "entrypoint": {"module": "train"}, **fields}
    return violations(resolve(Spec.model_validate(wire), None), Limits.model_validate(limits))


WITHIN: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("no limits at all", {"replicas": 4096, "resources": gpus(64)}, {}, {}),
    ("as many as allowed", {"replicas": 8}, {"maxReplicas": 8}, {}),
    ("elastic, as many as allowed", {"replicas": 1}, {"maxReplicas": 8}, {"elastic": {"maxReplicas": 8}}),
    ("as many processes as allowed", {"procPerNode": 8}, {"maxProcPerNode": 8}, {}),
    ("auto counts GPUs", {"resources": gpus(4)}, {"maxProcPerNode": 4}, {}),
    ("the same amount in another unit", {"resources": {"limits": {"memory": "1024Mi"}}}, {"maxResources": {"memory": "1Gi"}}, {}),
    ("nothing of it asked for", {}, {"maxResources": {GPU: 0}}, {}),
    ("an init container runs before the worker", {"resources": gpus(4), "initContainers": [helper("i", resources=gpus(4))]}, {"maxResources": {GPU: 4}}, {}),
    ("a deadline within", {}, {"maxActiveDeadlineSeconds": 60}, {"lifecycle": {"activeDeadlineSeconds": 60}}),
    ("one of the prefixes", {}, {"imagePrefixes": ["quay.io/us/", "ghcr.io/us/"]}, {}),
]  # fmt: skip

ABOVE: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], list[str]]] = [
    ("replicas", {"replicas": 9}, {"maxReplicas": 8}, {}, ["workers.replicas is 9, at most 8 allowed"]),
    ("elastic", {"replicas": 2}, {"maxReplicas": 8}, {"elastic": {"maxReplicas": 16}}, ["elastic.maxReplicas is 16, at most 8 allowed"]),
    ("processes", {"procPerNode": 9}, {"maxProcPerNode": 8}, {}, ["workers.procPerNode is 9, at most 8 allowed"]),
    ("auto counts GPUs", {"resources": gpus(8)}, {"maxProcPerNode": 4}, {}, ["workers.procPerNode is 8, at most 4 allowed"]),
    ("a limit", {"resources": gpus(8)}, {"maxResources": {GPU: 4}}, {}, [f"workers.resources.limits[{GPU}] is 8, at most 4 allowed"]),
    ("a request", {"resources": {"requests": {"cpu": "1500m"}}}, {"maxResources": {"cpu": 1}}, {}, ["workers.resources.requests[cpu] is 1500m, at most 1 allowed"]),
    ("sidecars count", {"resources": gpus(4), "sidecars": [helper("s", resources=gpus(1))]}, {"maxResources": {GPU: 4}}, {}, [f"workers.resources.limits[{GPU}] is 5 over all containers, at most 4 allowed"]),
    ("an init container beside a sidecar", {"initContainers": [helper("i", resources=gpus(4))], "sidecars": [helper("s", resources=gpus(1))]}, {"maxResources": {GPU: 4}}, {}, [f"workers.resources.limits[{GPU}] is 5 over all containers, at most 4 allowed"]),
    ("a longer deadline", {}, {"maxActiveDeadlineSeconds": 60}, {"lifecycle": {"activeDeadlineSeconds": 61}}, ["lifecycle.activeDeadlineSeconds is 61, at most 60 allowed"]),
    ("no deadline", {}, {"maxActiveDeadlineSeconds": 60}, {}, ["lifecycle.activeDeadlineSeconds is not set, at most 60 allowed"]),
    ("an image from elsewhere", {"image": "evil.io/us/x:1"}, {"imagePrefixes": ["ghcr.io/us/"]}, {}, ["workers.image is evil.io/us/x:1, which must begin with ghcr.io/us/"]),
    ("helpers and image volumes", {
        "image": "a/t:1",
        "initContainers": [helper("i")], "sidecars": [helper("s")],
        "volumes": [{"name": "v", "mountPath": "/v", "image": {"reference": "b/v:1"}}],
     }, {"imagePrefixes": ["a/", "c/"]}, {}, [
        "workers.initContainers[i].image is ghcr.io/us/tool:1, which must begin with a/ or c/",
        "workers.sidecars[s].image is ghcr.io/us/tool:1, which must begin with a/ or c/",
        "workers.volumes[v].image is b/v:1, which must begin with a/ or c/",
     ]),
    ("all at once", {"replicas": 9, "resources": gpus(8), "image": "a/b:1"}, {"maxReplicas": 8, "maxProcPerNode": 4, "maxResources": {GPU: 4}, "imagePrefixes": ["c/"]}, {}, [
        "workers.replicas is 9, at most 8 allowed",
        "workers.procPerNode is 8, at most 4 allowed",
        f"workers.resources.limits[{GPU}] is 8, at most 4 allowed",
        "workers.image is a/b:1, which must begin with c/",
     ]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("workers", "limits", "fields"), [case[1:] for case in WITHIN], ids=[case[0] for case in WITHIN]
)
def test_what_is_within_the_limits_is_not_named(
    workers: dict[str, Any], limits: dict[str, Any], fields: dict[str, Any]
) -> None:
    assert found(workers, limits, **fields) == []


@pytest.mark.parametrize(
    ("workers", "limits", "fields", "says"), [case[1:] for case in ABOVE], ids=[case[0] for case in ABOVE]
)
def test_what_is_above_is_named_with_the_wish_and_the_limit(
    workers: dict[str, Any], limits: dict[str, Any], fields: dict[str, Any], says: list[str]
) -> None:
    assert found(workers, limits, **fields) == says


def test_every_limit_has_a_case_on_both_sides() -> None:
    for cases in (WITHIN, ABOVE):
        used = {name for case in cases for name in case[2]}
        assert used == {field.alias for field in Limits.model_fields.values()}
