"""What is rendered is a pod that a real API server takes, whole, in a namespace that enforces *restricted*.

Nothing of the pod may be lost on the way in: a field that the API server doesn't know is dropped without a word.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import yaml
from deepseek_operator.api.profile import DeepSeekProfile
from deepseek_operator.api.resolve import resolve
from deepseek_operator.api.v1alpha1 import DeepSeekJob
from deepseek_operator.render import Membership, worker_pod
from deepseek_operator.render.ray import head_pod, head_service, network_policy, token_secret
from support import bad_manifests, full_job
from support.api import PODS, Api
from support.crd import ROOT
from support.eventually import eventually

pytestmark = pytest.mark.cluster

MEMBERSHIP = Membership(generation=1, attempt=1, node_rank=0, nodes=1, master="m", host=True)
DOCUMENTS = [
    document
    for path in sorted((ROOT / "examples").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
]
EXAMPLES = {document["metadata"]["name"]: document for document in DOCUMENTS if document["kind"] == "DeepSeekJob"}
PROFILES = {
    document["metadata"]["name"]: DeepSeekProfile.model_validate(document).spec
    for document in DOCUMENTS
    if document["kind"] == "DeepSeekProfile"
}
JOBS = {
    **EXAMPLES,
    "every-field": full_job.trainer_job(),
    "every-field-script": full_job.script_job(),
    "every-field-module": full_job.module_job(),
    "trainer": bad_manifests.trainer_job(),
    "script": bad_manifests.script_job(),
}
CLASSES: dict[str, dict[str, Any]] = {
    "/apis/scheduling.k8s.io/v1/priorityclasses": {"metadata": {"name": "research"}, "value": 1000},
    "/apis/node.k8s.io/v1/runtimeclasses": {"metadata": {"name": "nvidia"}, "handler": "nvidia"},
}


@pytest.fixture(scope="module")
def pods_path(api: Api) -> Iterator[str]:
    """Pods of a namespace that enforces the restricted standard, in a cluster that has the classes of the full job."""
    namespace = f"restricted-{uuid4().hex[:8]}"
    labels = {
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/enforce-version": "latest",
    }
    missing = {path: body for path, body in CLASSES.items() if api.find(f"{path}/{body['metadata']['name']}") is None}
    for path, body in missing.items():
        api.create(path, body)
    api.create("/api/v1/namespaces", {"metadata": {"name": namespace, "labels": labels}})
    # Admission knows the classes a moment later; a dry run in another namespace needs no restricted pod.
    classes = {"priorityClassName": "research", "runtimeClassName": "nvidia"}
    probe = {"metadata": {"name": "probe"}, "spec": {"containers": [{"name": "c", "image": "x"}], **classes}}
    probes = f"{PODS.format(ns='default')}?dryRun=All"
    eventually(lambda: api.create(probes, probe), deadline_s=60, what="a pod with the new classes is taken")
    yield PODS.format(ns=namespace)
    api.delete(f"/api/v1/namespaces/{namespace}")
    for path, body in missing.items():
        api.delete(f"{path}/{body['metadata']['name']}")


def lost(sent: Any, found: Any, path: str = "") -> Iterator[str]:
    """Paths of what was sent and isn't there, or is otherwise."""
    if isinstance(sent, dict) and isinstance(found, dict):
        for key, value in sent.items():
            # An empty object may be left out: it says nothing.
            yield from lost(value, found.get(key, {} if value == {} else None), f"{path}.{key}")
    elif isinstance(sent, list) and isinstance(found, list) and len(sent) == len(found):
        for index, value in enumerate(sent):
            yield from lost(value, found[index], f"{path}[{index}]")
    elif sent != found and sent != "":
        yield f"{path}: {sent!r} became {found!r}"


def whole(manifest: dict[str, Any], namespace: str) -> DeepSeekJob:
    metadata = {**manifest["metadata"], "namespace": namespace, "uid": "abc"}
    job = DeepSeekJob.model_validate(manifest | {"metadata": metadata})
    return job.model_copy(update={"spec": resolve(job.spec, PROFILES.get(job.spec.profile or ""))})


def rendered(manifest: dict[str, Any], namespace: str) -> dict[str, Any]:
    return worker_pod(whole(manifest, namespace), 0, 0, MEMBERSHIP)


@pytest.mark.parametrize("name", [name for name, job in JOBS.items() if "ray" in job["spec"].get("data", {})])
def test_the_parts_of_ray_are_taken_whole(api: Api, pods_path: str, name: str) -> None:
    namespace = pods_path.split("/")[-2]
    job = whole(JOBS[name], namespace)
    assert job.spec.ray is not None
    open_to_all = job.spec.ray.model_copy(update={"network_policy": True})
    policies = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
    sent = {
        f"/api/v1/namespaces/{namespace}/secrets": token_secret(job),
        f"/api/v1/namespaces/{namespace}/services": head_service(job, 1),
        policies: network_policy(job, open_to_all),
        pods_path: head_pod(job, job.spec.ray, 1),
    }
    for path, manifest in sent.items():
        assert manifest is not None
        taken = api.create(f"{path}?dryRun=All&fieldValidation=Strict", manifest)
        assert list(lost(manifest, taken)) == []
    assert not [volume for volume in taken["spec"]["volumes"] if volume["name"].startswith("kube-api-access")]


@pytest.mark.parametrize("name", JOBS)
def test_a_rendered_pod_is_taken_whole(api: Api, pods_path: str, name: str) -> None:
    pod = rendered(JOBS[name], pods_path.split("/")[-2])
    if os.environ.get("KUBECONFIG"):  # whether a given cluster has image volumes is its own affair
        gone = {volume["name"] for volume in pod["spec"]["volumes"] if "image" in volume}
        pod["spec"]["volumes"] = [volume for volume in pod["spec"]["volumes"] if volume["name"] not in gone]
        (worker,) = pod["spec"]["containers"]
        worker["volumeMounts"] = [mount for mount in worker["volumeMounts"] if mount["name"] not in gone]
    taken = api.create(f"{pods_path}?dryRun=All&fieldValidation=Strict", pod)
    assert list(lost(pod, taken)) == []
    assert not [volume for volume in taken["spec"]["volumes"] if volume["name"].startswith("kube-api-access")], (
        "a token is mounted"
    )
