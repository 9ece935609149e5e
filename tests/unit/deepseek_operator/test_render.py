"""Manifests: one golden for a full job, and the rules that a golden can't say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from deepseek_operator.api.names import ANNOTATION_MEMBERSHIP, ANNOTATION_RUN_CONFIG, MAX_JOB_NAME, Env
from deepseek_operator.api.v1alpha1 import DeepSeekJob, Status
from deepseek_operator.decide.effective import effective
from deepseek_operator.render import (
    Membership,
    headless_service,
    membership_json,
    pod_dns,
    pod_group,
    pod_name,
    run_config_json,
    service_name,
    worker_pod,
)
from deepseek_operator.render.claims import claim, own_claim, template_of
from deepseek_operator.render.ray import head_pod, head_service, network_policy, token_secret
from support.full_job import trainer_job
from support.make import UID, make_job, make_manifest, make_script_manifest

GOLDEN = Path(__file__).parent / "golden"
MEMBERSHIP = Membership(generation=1, attempt=1, node_rank=1, nodes=3, master="m", host=False)


def full_job() -> DeepSeekJob:
    """Every field is set."""
    manifest = trainer_job()
    manifest["metadata"] = make_manifest()["metadata"]
    return DeepSeekJob.model_validate(manifest)


def ray_job(**ray: Any) -> DeepSeekJob:
    """Ray is asked for, and nothing else said."""
    return effective(make_job(spec={"data": {"corpus": "chitchat", "ray": ray}})).job


def container(pod: dict[str, Any]) -> dict[str, Any]:
    [only] = pod["spec"]["containers"]
    return dict(only)


def script_pod(**workers: Any) -> dict[str, Any]:
    job = DeepSeekJob.model_validate(make_script_manifest(**workers))
    return worker_pod(job, 0, 0, MEMBERSHIP)


def test_manifests_of_a_full_job_are_the_golden_ones() -> None:
    job = full_job()
    rendered = [headless_service(job), worker_pod(job, 1, 2, MEMBERSHIP), pod_group(job, 3)]
    assert rendered == list(yaml.safe_load_all((GOLDEN / "full-job.yaml").read_text()))


def test_the_parts_of_ray_are_the_golden_ones() -> None:
    job = ray_job()
    ray = job.spec.ray
    assert ray is not None
    rendered = [token_secret(job), network_policy(job, ray), head_service(job, 2), head_pod(job, ray, 2)]
    assert rendered == list(yaml.safe_load_all((GOLDEN / "ray.yaml").read_text()))


def test_plain_job_asks_for_nothing_that_was_not_asked_for() -> None:
    pod = script_pod()
    assert set(pod["spec"]) == {
        *("restartPolicy", "hostname", "subdomain", "automountServiceAccountToken", "enableServiceLinks"),
        *("terminationGracePeriodSeconds", "securityContext", "tolerations", "containers", "volumes"),
    }
    assert "envFrom" not in container(pod)
    assert container(pod)["resources"] == {}
    assert [v["name"] for v in pod["spec"]["volumes"]] == ["deepseekjob-config", "deepseekjob-run", "deepseekjob-tmp"]


@pytest.mark.parametrize(
    ("entrypoint", "tail"),
    [
        ({"script": "/app/train.py", "args": ["--lr", "1"]}, ["/app/train.py", "--lr", "1"]),
        ({"module": "my.train"}, ["-m", "my.train"]),
    ],
)
def test_entrypoint_follows_the_agent(entrypoint: dict[str, Any], tail: list[str]) -> None:
    manifest = make_script_manifest()
    manifest["spec"]["entrypoint"] = entrypoint
    pod = worker_pod(DeepSeekJob.model_validate(manifest), 0, 0, MEMBERSHIP)
    assert container(pod)["command"] == ["python", "-m", "deepseek_trainer.agent", *tail]


def test_script_has_no_run_config() -> None:
    pod = script_pod()
    assert ANNOTATION_RUN_CONFIG not in pod["metadata"]["annotations"]
    assert Env.RUN_CONFIG_FILE not in {variable["name"] for variable in container(pod)["env"]}
    [config] = [v for v in pod["spec"]["volumes"] if v["name"] == "deepseekjob-config"]
    assert [item["path"] for item in config["downwardAPI"]["items"]] == ["membership.json"]


def test_pod_meets_the_restricted_pod_security_standard() -> None:
    pod = worker_pod(full_job(), 0, 0, MEMBERSHIP)
    spec = pod["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for confined in (container(pod), *spec["initContainers"]):
        assert confined["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    allowed = {"configMap", "downwardAPI", "emptyDir", "image", "persistentVolumeClaim", "projected", "secret"}
    assert all(volume.keys() - {"name"} <= allowed for volume in spec["volumes"])
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()


def test_every_mount_has_its_volume() -> None:
    pod = worker_pod(full_job(), 0, 0, MEMBERSHIP)
    volumes = [volume["name"] for volume in pod["spec"]["volumes"]]
    mounts = container(pod)["volumeMounts"]
    assert volumes == [mount["name"] for mount in mounts]
    assert len({mount["mountPath"] for mount in mounts}) == len(mounts)


def test_rendering_leaves_the_job_as_it_is_and_shares_nothing_between_pods() -> None:
    job = full_job()
    before = job.model_dump_json()
    one, other = worker_pod(job, 0, 0, MEMBERSHIP), worker_pod(job, 0, 0, MEMBERSHIP)
    assert one == other
    container(one)["env"].append({"name": "X"})
    one["spec"]["tolerations"].clear()
    container(one)["resources"]["limits"]["cpu"] = "9"
    assert worker_pod(job, 0, 0, MEMBERSHIP) == other
    assert job.model_dump_json() == before


def test_sub_path_defaults_to_the_job_so_that_jobs_can_share_a_volume() -> None:
    job = make_job(spec={"checkpoint": {"volume": {"claimName": "c", "subPath": "runs/7"}}})
    folders = [
        next(e["value"] for e in container(worker_pod(j, 0, 0, MEMBERSHIP))["env"] if e["name"] == Env.CHECKPOINT_DIR)
        for j in (make_job(), job)
    ]
    assert folders == ["/checkpoints/demo", "/checkpoints/runs/7"]


def test_another_claim_is_mounted_read_only_in_every_pod_alike() -> None:
    volume, wanted = {"claimName": "c"}, {"subPath": "before", "step": 40}
    for name, path in (("other", "/resume-from/before"), ("c", "/checkpoints/before"), (None, "/checkpoints/before")):
        resume = wanted | ({"claimName": name} if name else {})
        job = make_job(spec={"checkpoint": {"volume": volume, "resumeFrom": resume}})
        pods = [worker_pod(j, 0, 0, MEMBERSHIP) for j in (job, job.model_copy(update={"status": Status(attempt=3)}))]
        assert pods[0]["spec"]["volumes"] == pods[1]["spec"]["volumes"]
        mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container(pods[0])["volumeMounts"]}
        assert mounts["/checkpoints"] is False
        assert mounts.get("/resume-from") == (True if name == "other" else None)
        section = json.loads(run_config_json(job) or "")["checkpoint"]
        assert section["resumeFrom"]["directory"] == path


@pytest.mark.parametrize("on_delete", ["Retain", "Delete"])
def test_the_claim_that_is_made_is_kept_by_having_no_owner(on_delete: str) -> None:
    template = {"size": "10Gi", "onDelete": on_delete, "storageClassName": "fast"}
    job = make_job(spec={"checkpoint": {"volume": {"template": template}}})
    wanted = template_of(job)
    assert wanted is not None
    made = claim(job, wanted)
    assert made["metadata"]["name"] == own_claim(job) == "demo-checkpoints"
    assert made["metadata"]["labels"] == {
        "app.kubernetes.io/managed-by": "deepseek-operator",
        "training.deepseekjob.dev/job-name": "demo",
    }
    owners = made["metadata"].get("ownerReferences", [])
    assert [owner["uid"] for owner in owners] == ([UID] if on_delete == "Delete" else [])
    assert made["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "10Gi"}},
        "storageClassName": "fast",
    }
    [volume] = [v for v in worker_pod(job, 0, 0, MEMBERSHIP)["spec"]["volumes"] if "persistentVolumeClaim" in v]
    assert volume["persistentVolumeClaim"] == {"claimName": "demo-checkpoints"}


def test_the_kubelet_makes_no_folder_on_the_checkpoint_volume() -> None:
    mounts = container(worker_pod(make_job(), 0, 0, MEMBERSHIP))["volumeMounts"]
    [mount] = [m for m in mounts if m["mountPath"] == "/checkpoints"]
    assert "subPath" not in mount, "it would belong to root, and the worker could not write to it"


def test_names_fit_into_a_dns_label() -> None:
    longest = "j" * MAX_JOB_NAME
    assert len(pod_name(longest, 4095, 9999)) <= 63
    assert len(service_name(longest)) <= 63
    assert pod_dns(make_job().metadata, 2, 1) == "demo-worker-2-1.demo-workers.team-a.svc"


def test_children_belong_to_their_job() -> None:
    job = make_job()
    for child in (headless_service(job), worker_pod(job, 0, 0, MEMBERSHIP)):
        [owner] = child["metadata"]["ownerReferences"]
        assert owner["uid"] == UID
        assert owner["controller"] is True
        assert owner["blockOwnerDeletion"] is True


def test_membership_is_canonical_json_with_the_trainers_keys() -> None:
    text = membership_json(MEMBERSHIP)
    expected = {"generation": 1, "attempt": 1, "nodeRank": 1, "nodes": 3, "master": "m", "port": 29500, "host": False}
    assert json.loads(text) == expected
    assert text == json.dumps(expected, sort_keys=True, separators=(",", ":"))
    assert worker_pod(make_job(), 1, 0, MEMBERSHIP)["metadata"]["annotations"][ANNOTATION_MEMBERSHIP] == text


@pytest.mark.parametrize(
    ("interval", "rendered"),
    [
        ({}, (100, None, False)),
        ({"steps": 7}, (7, None, False)),
        ({"seconds": 60}, (None, 60, False)),
        ({"auto": True}, (None, None, True)),
        ({"auto": False}, (100, None, False)),
    ],
)
def test_the_interval_of_checkpoints(interval: dict[str, Any], rendered: tuple[object, ...]) -> None:
    manifest = make_manifest(checkpoint=True)
    manifest["spec"]["checkpoint"]["interval"] = interval
    section = json.loads(run_config_json(DeepSeekJob.model_validate(manifest)) or "")["checkpoint"]
    assert (section["everySteps"], section["everySeconds"], section["auto"]) == rendered


@pytest.mark.parametrize(
    ("checkpoint", "section", "cache"),
    [
        (
            True,
            {
                "directory": "/checkpoints/demo",
                "mode": "Async",
                "everySteps": 20,
                "everySeconds": None,
                "auto": False,
                "keep": 3,
                "keepSeconds": None,
                "keepEverySteps": None,
                "onFailure": "Continue",
                "maxFailures": 10,
            },
            "/checkpoints/demo/data",
        ),
        (False, None, "/run/deepseekjob/data"),
    ],
)
def test_run_config(checkpoint: bool, section: dict[str, Any] | None, cache: str) -> None:
    manifest = make_manifest(checkpoint=checkpoint)
    found = json.loads(run_config_json(DeepSeekJob.model_validate(manifest)) or "")
    assert found == {
        "job": "demo",
        "backend": "auto",
        "trainer": manifest["spec"]["trainer"],
        "data": {"corpus": "chitchat"},
        "checkpoint": section,
        "dataCache": cache,
    }
