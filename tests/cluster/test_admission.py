"""Wrong objects are refused by the API server itself, with a message that names the field and the remedy.

No webhook and no operator runs here: the schema and its CEL rules are all there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support import full_job
from support.api import JOBS, Api, ApiFailure
from support.bad_manifests import BAD, Bad, changed, script_job, trainer_job
from support.crd import install
from support.kubectl import Kubectl, KubectlError

pytestmark = pytest.mark.cluster

STRICT = JOBS.format(ns="default") + "?dryRun=All&fieldValidation=Strict"


@pytest.fixture(scope="module", autouse=True)
def _crd(kubectl: Kubectl) -> None:
    install(kubectl)


@pytest.fixture
def existing(kubectl: Kubectl) -> Iterator[str]:
    """The name of a job that exists."""
    job = changed(trainer_job(), {"metadata/name": "existing"})
    kubectl.apply(job)
    yield "existing"
    kubectl.run("delete", "dsj", "existing", "--wait=false")


def refusal(api: Api, manifest: dict[str, Any]) -> str:
    """What the API server says; empty when it would take the object."""
    try:
        api.create(STRICT, manifest)
    except ApiFailure as failure:
        if failure.status not in (400, 422):
            raise
        return str(failure).replace('\\"', '"')
    return ""


RIGHT = {
    "trainer": trainer_job(),
    "script": script_job(),
    "every-field": full_job.trainer_job(),
    "every-field-script": full_job.script_job(),
    "every-field-module": full_job.module_job(),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_manifests_are_accepted(api: Api, name: str) -> None:
    assert refusal(api, RIGHT[name]) == ""


@pytest.mark.parametrize("bad", BAD, ids=[bad.id for bad in BAD])
def test_a_wrong_manifest_is_refused_with_field_and_remedy(api: Api, bad: Bad) -> None:
    message = refusal(api, bad.manifest())
    assert message, "the API server took it"
    for part in bad.says:
        assert part in message


def test_kubectl_tells_all_that_is_wrong_at_once(kubectl: Kubectl) -> None:
    wrong = changed(trainer_job(), {"spec/workers/image": "a b", "spec/workers/env/0/name": "DEEPSEEKJOB_X"})
    with pytest.raises(KubectlError) as told:
        kubectl.apply(wrong)
    assert "spec.workers.image: " in str(told.value)
    assert "spec.workers.env[0].name: " in str(told.value)


def test_applying_the_same_again_changes_nothing(kubectl: Kubectl, existing: str) -> None:
    before = kubectl.json("get", "dsj", existing)
    kubectl.apply(changed(trainer_job(), {"metadata/name": existing}))
    assert kubectl.json("get", "dsj", existing)["metadata"]["generation"] == before["metadata"]["generation"]


@pytest.mark.parametrize("amount", [4, "4", "500m", "1.5"])
def test_a_quantity_may_be_a_number(api: Api, amount: int | str) -> None:
    job = changed(trainer_job(), {"spec/workers/resources/requests/cpu": amount})
    assert refusal(api, job) == ""


@pytest.mark.parametrize("path", ["/etc/ssl/private", "/run/secrets", "/root/.cache", "/mnt/data/", "/checkpoints2"])
def test_a_mount_path_beside_the_reserved_ones_is_fine(api: Api, path: str) -> None:
    job = changed(trainer_job(), {"spec/workers/volumes/0/mountPath": path})
    assert refusal(api, job) == ""


def test_the_longest_name_is_accepted(api: Api) -> None:
    assert refusal(api, changed(trainer_job(), {"metadata/name": "j" * 45})) == ""


@pytest.mark.parametrize(
    "workers",
    [
        {"image": "trainer"},
        {"image": "localhost:5000/trainer:v1"},
        {"image": "registry.example.com:443/a/b_c/d-e.f:1.2-rc_1"},
        {"image": "ghcr.io/you/trainer@sha256:" + "0" * 64},
        {"image": "ghcr.io/you/trainer:1@sha256:" + "a" * 64},
        {"procPerNode": "auto"},
        {"procPerNode": "64"},
        {"labels": {"example.com/Team_1.x": "", "k" * 63: "v" * 63}},
        {"resources": {"limits": {"cpu": 1, "hugepages-2Mi": "5120Mi", "vpc.amazonaws.com/efa": 4}}},
        {"resources": {"requests": {"ephemeral-storage": "1Gi"}, "limits": {"nvidia.com/mig-1g.5gb": "2"}}},
        {"tolerations": [{"operator": "Exists"}, {"key": "a"}, {"key": "a", "value": "b", "effect": "NoExecute"}]},
        {"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c", "key": ".file_1-x.txt"}}}]},
        {"sidecars": [{"name": "s", "image": "s", "mounts": [{"name": "checkpoints", "mountPath": "/dev/shm"}]}]},
    ],
    ids=str,
)
def test_unusual_and_right(api: Api, workers: dict[str, Any]) -> None:
    base = trainer_job()
    base["spec"]["workers"] |= workers
    assert refusal(api, base) == ""
