"""A wrong DeepSeekProfile is refused by the API server itself; a right one is shown and explained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.bad_manifests import Manifest, changed
from support.crd import PROFILE_CRD_FILE, install
from support.eventually import eventually
from support.kubectl import Kubectl, KubectlError
from support.yamls import document

pytestmark = pytest.mark.cluster


def right_profile() -> Manifest:
    """A valid profile, with every section present."""
    return {
        "apiVersion": "training.deepseekjob.dev/v1alpha1",
        "kind": "DeepSeekProfile",
        "metadata": {"name": "right"},
        "spec": {
            "workers": {
                "image": "example.com/trainer:1",
                "procPerNode": 8,
                "resources": {"requests": {"cpu": 16}, "limits": {"nvidia.com/gpu": 8}},
                "env": [{"name": "NCCL_ALGO", "value": "Ring"}],
                "nodeSelector": {"pool": "h100"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                "sharedMemory": "64Gi",
            },
            "communication": {"interface": "eth0", "ibHca": "mlx5_0", "debug": "WARN"},
            "scheduling": {"gang": "Kueue", "queue": "research"},
            "lifecycle": {"activeDeadlineSeconds": 86400, "cleanPodPolicy": "All"},
            "limits": {"maxReplicas": 16, "maxResources": {"nvidia.com/gpu": 8}, "imagePrefixes": ["example.com/"]},
        },
    }


BAD: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("unknown field", {"workers/replicas": 2}, ('unknown field "spec.workers.replicas"',)),
    ("unknown section", {"recovery": {}}, ('unknown field "spec.recovery"',)),
    ("a pod template", {"workers/template": {"hostNetwork": True}}, ('unknown field "spec.workers.template"',)),
    ("unknown limit", {"limits/maxPods": 2}, ('unknown field "spec.limits.maxPods"',)),
    ("an image with a space", {"workers/image": "a b"}, ("spec.workers.image", "write it as ghcr.io/you/trainer:1.2")),
    ("too many processes", {"workers/procPerNode": 65}, ("spec.workers.procPerNode", "a number from 1 to 64")),
    ("a pull policy", {"workers/imagePullPolicy": "Sometimes"}, ("spec.workers.imagePullPolicy", '"IfNotPresent"')),
    ("a quantity", {"workers/sharedMemory": "lots"}, ("spec.workers.sharedMemory", "500m, 4, 16Gi")),
    ("a request above its limit", {"workers/resources/limits/cpu": 1}, ("spec.workers.resources.requests", "lower")),
    ("a GPU request alone", {"workers/resources/requests": {"nvidia.com/gpu": 4}}, ("spec.workers.resources.requests", "set only limits")),
    ("a variable of the operator's", {"workers/env/0/name": "DEEPSEEKJOB_NAME"}, ("workers.env[0].name", "choose another")),
    ("a variable twice", {"workers/env": [{"name": "NCCL_ALGO", "value": "Ring"}, {"name": "NCCL_ALGO", "value": "Tree"}]}, ("spec.workers.env[1]", "Duplicate value")),
    ("a variable with two values", {"workers/env/0/valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}, ("spec.workers.env[0]", "exactly one of value and valueFrom")),
    ("a label of the operator's", {"workers/labels": {"training.deepseekjob.dev/slot": "0"}}, ("spec.workers.labels", "choose other keys")),
    ("an annotation of the operator's", {"workers/annotations": {"training.deepseekjob.dev/membership": "{}"}}, ("spec.workers.annotations", "choose other keys")),
    ("an interface with a space", {"communication/interface": "eth 0"}, ("spec.communication.interface", "should match")),
    ("a debug level", {"communication/debug": "LOUD"}, ("spec.communication.debug", '"WARN"')),
    ("a timeout of nothing", {"communication/timeoutSeconds": 0}, ("spec.communication.timeoutSeconds", "equal to 10")),
    ("Kueue without a queue", {"scheduling": {"gang": "Kueue"}}, ("spec.scheduling.queue", "the name of a LocalQueue")),
    ("a queue of nobody", {"scheduling/gang": "None"}, ("spec.scheduling.queue", "set gang to one of them")),
    ("a gang", {"scheduling/gang": "Slurm"}, ("spec.scheduling.gang", '"Volcano"')),
    ("a deadline of nothing", {"lifecycle/activeDeadlineSeconds": 0}, ("spec.lifecycle.activeDeadlineSeconds", "equal to 1")),
    ("a success policy", {"lifecycle/successPolicy": "RankZero"}, ('unknown field "spec.lifecycle.successPolicy"',)),
    ("no workers allowed", {"limits/maxReplicas": 0}, ("spec.limits.maxReplicas", "greater than or equal to 1")),
    ("an amount", {"limits/maxResources": {"cpu": "many"}}, ("spec.limits.maxResources", "500m, 4, 16Gi")),
    ("an empty prefix", {"limits/imagePrefixes": [""]}, ("spec.limits.imagePrefixes[0]", "at least 1 chars")),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _crds(kubectl: Kubectl) -> None:
    install(kubectl)
    eventually(lambda: kubectl.run("explain", "dsp.spec.limits"), deadline_s=60, what="published schema")


def _dry_run(kubectl: Kubectl, manifest: Manifest) -> str:
    try:
        kubectl.run("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(manifest))
    except KubectlError as refusal:
        return str(refusal)
    return ""


def test_the_base_of_all_cases_is_accepted(kubectl: Kubectl) -> None:
    assert _dry_run(kubectl, right_profile()) == ""


@pytest.mark.parametrize(("changes", "says"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_wrong_profile_is_refused_with_field_and_remedy(
    kubectl: Kubectl, changes: dict[str, Any], says: tuple[str, ...]
) -> None:
    message = _dry_run(kubectl, changed(right_profile(), {f"spec/{path}": value for path, value in changes.items()}))
    assert message, "the API server took it"
    for part in says:
        assert part in message


@pytest.fixture
def profile(kubectl: Kubectl) -> Iterator[Manifest]:
    kubectl.apply(right_profile())
    yield kubectl.json("get", "dsp", "right")
    kubectl.run("delete", "dsp", "right")


def test_the_columns_tell_what_a_profile_gives(kubectl: Kubectl, profile: Manifest) -> None:
    head, row = kubectl.run("get", "dsp", "right").splitlines()
    assert head.split() == ["NAME", "IMAGE", "MAX-REPLICAS", "QUEUE", "AGE"]
    assert row.split()[:4] == ["right", "example.com/trainer:1", "16", "research"]


def test_every_field_comes_back_as_it_was_written(kubectl: Kubectl, profile: Manifest) -> None:
    def within(part: Any, whole: Any) -> bool:
        if isinstance(part, dict):
            return all(key in whole and within(value, whole[key]) for key, value in part.items())
        if isinstance(part, list):
            return len(part) == len(whole) and all(map(within, part, whole))
        return bool(part == whole)

    assert within(right_profile()["spec"], profile["spec"])


def test_the_api_server_fills_in_nothing_that_would_win_over_a_default(kubectl: Kubectl) -> None:
    """A profile that says nothing must stay silent: whatever stood in it would be its wish."""
    empty = right_profile() | {"spec": {}}
    shown = json.loads(kubectl.run("apply", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(empty)))
    assert shown["spec"] == {}


def test_every_field_has_a_description() -> None:
    crd = document(PROFILE_CRD_FILE.read_text(encoding="utf-8"))

    def fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
        for name, field in schema.get("properties", {}).items():
            yield f"{path}.{name}", field
            yield from fields(field.get("items") or field.get("additionalProperties") or field, f"{path}.{name}")

    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    found = {path: field for path, field in fields(schema) if path != ".metadata"}
    assert len(found) > 50
    assert [path for path, field in found.items() if len(field.get("description", "")) < 5] == []


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("dsp", "What a platform team fills in for the jobs that name it"),
        ("dsp.spec", "limits <Object> The most that a job may ask for."),
        ("dsp.spec.workers.nodeSelector", "added to the job's, and wins where both have a label"),
        ("dsp.spec.limits.imagePrefixes", "must begin with one of these"),
        ("dsp.spec.communication.ibHca", "Becomes NCCL_IB_HCA."),
        ("dsj.spec.profile", "a later change of the profile never changes the job"),
        ("dsj.status.profile", "The profile that the job was started with"),
    ],
)
def test_explain_answers_the_question(kubectl: Kubectl, path: str, says: str) -> None:
    assert says in " ".join(kubectl.run("explain", path).split())
