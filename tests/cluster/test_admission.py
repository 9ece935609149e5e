"""Wrong objects are refused by the API server itself, with a message that names the field and the remedy.

No webhook and no operator runs here: the schema and its CEL rules are all there is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support.bad_manifests import BAD, IMMUTABLE, Bad, changed, script_job, trainer_job
from support.crd import install
from support.kubectl import Kubectl, KubectlError

pytestmark = pytest.mark.cluster


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


def _dry_run(kubectl: Kubectl, manifest: dict[str, object]) -> str:
    """What `kubectl apply` says: empty when the object would be taken."""
    try:
        kubectl.run("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(manifest))
    except KubectlError as refusal:
        return str(refusal)
    return ""


@pytest.mark.parametrize("base", [trainer_job, script_job])
def test_the_base_of_all_cases_is_accepted(kubectl: Kubectl, base: object) -> None:
    manifest = trainer_job() if base is trainer_job else script_job()
    assert _dry_run(kubectl, manifest) == ""


@pytest.mark.parametrize("bad", BAD, ids=[bad.id for bad in BAD])
def test_a_wrong_manifest_is_refused_with_field_and_remedy(kubectl: Kubectl, bad: Bad) -> None:
    message = _dry_run(kubectl, bad.manifest())
    assert message, "the API server took it"
    for part in bad.says:
        assert part in message


@pytest.mark.parametrize("bad", IMMUTABLE, ids=[bad.id for bad in IMMUTABLE])
def test_what_defines_a_job_cannot_change(kubectl: Kubectl, existing: str, bad: Bad) -> None:
    message = _dry_run(kubectl, changed(bad.manifest(), {"metadata/name": existing}))
    assert message, "the API server took the change"
    for part in bad.says:
        assert part in message


def test_recovery_may_change(kubectl: Kubectl, existing: str) -> None:
    job = changed(trainer_job(), {"metadata/name": existing, "spec/recovery": {"budgets": {"application": 9}}})
    assert _dry_run(kubectl, job) == ""


def test_applying_the_same_again_changes_nothing(kubectl: Kubectl, existing: str) -> None:
    before = kubectl.json("get", "dsj", existing)
    kubectl.apply(changed(trainer_job(), {"metadata/name": existing}))
    assert kubectl.json("get", "dsj", existing)["metadata"]["generation"] == before["metadata"]["generation"]


def test_defaults_are_filled_in_by_the_api_server(kubectl: Kubectl, existing: str) -> None:
    spec = kubectl.json("get", "dsj", existing)["spec"]
    assert spec["recovery"]["maxProcessRestarts"] == 3
    assert spec["trainer"]["optimizer"] | {"warmupSteps": 20} == {
        "beta1": 0.9,
        "beta2": 0.95,
        "gradientClip": 1,
        "learningRate": 0.003,
        "minLearningRateRatio": 0.1,
        "warmupSteps": 20,
        "weightDecay": 0.1,
    }
    assert spec["trainer"]["tokenizer"] == {"kind": "bpe", "vocabSize": 4096}


@pytest.mark.parametrize("amount", [4, "4", "500m", "1.5"])
def test_a_quantity_may_be_a_number(kubectl: Kubectl, amount: int | str) -> None:
    job = changed(trainer_job(), {"spec/workers/resources/requests/cpu": amount})
    assert _dry_run(kubectl, job) == ""


@pytest.mark.parametrize("path", ["/etc/ssl/private", "/run/secrets", "/root/.cache", "/mnt/data/", "/checkpoints2"])
def test_a_mount_path_beside_the_reserved_ones_is_fine(kubectl: Kubectl, path: str) -> None:
    job = changed(trainer_job(), {"spec/workers/volumes/0/mountPath": path})
    assert _dry_run(kubectl, job) == ""


def test_the_longest_name_is_accepted(kubectl: Kubectl) -> None:
    assert _dry_run(kubectl, changed(trainer_job(), {"metadata/name": "j" * 45})) == ""
