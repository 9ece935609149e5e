"""What the operator renders, the trainer understands: run config, membership, environment, volumes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from deepseek_operator.api.names import ANNOTATION_MEMBERSHIP, ANNOTATION_RUN_CONFIG, Env, Paths
from deepseek_operator.api.v1alpha1 import DeepSeekJob
from deepseek_operator.api.volumes import RESERVED_MOUNTS, RESERVED_VOLUME_PREFIX
from deepseek_operator.render.membership import Membership, membership_json
from deepseek_operator.render.pods import worker_pod
from deepseek_operator.render.runconfig import STEPS
from deepseek_trainer import config, contract
from deepseek_trainer.raycluster import executor
from support import full_job
from support.bad_manifests import script_job, trainer_job

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = {
    path.stem: manifest
    for path in sorted((ROOT / "examples").glob("*.yaml"))
    for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    if manifest["kind"] == "DeepSeekJob"
}
JOBS = {
    **EXAMPLES,
    "every-section": trainer_job(),
    "script": script_job(),
    "every-field": full_job.trainer_job(),
    "every-field-finetune": full_job.finetune_job(),
    "every-field-objects": full_job.object_job(),
    "every-field-script": full_job.script_job(),
    "every-field-module": full_job.module_job(),
}
OF_LIBRARIES = ("NCCL_", "GLOO_", "TORCH_NCCL_", "RAY_")
"""Variables that are theirs, and not of our contract."""
MEMBERSHIP = Membership(generation=7, attempt=2, node_rank=3, nodes=8, master="10.0.3.7", host=True)


def _job(name: str) -> DeepSeekJob:
    return DeepSeekJob.model_validate(JOBS[name])


def _pod(name: str) -> dict[str, Any]:
    return worker_pod(_job(name), 3, 1, MEMBERSHIP)


BUILT_IN = [name for name in JOBS if "trainer" in JOBS[name]["spec"]]


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_run_config_is_one_that_the_trainer_loads(name: str, tmp_path: Path) -> None:
    job = _job(name)
    path = tmp_path / "run-config.json"
    path.write_text(_pod(name)["metadata"]["annotations"][ANNOTATION_RUN_CONFIG])
    loaded = config.load(path)
    assert (loaded.job, loaded.backend) == (job.metadata.name, job.spec.backend)
    assert loaded.trainer == config.TrainerSpec.model_validate(job.spec.trainer)
    assert job.spec.data is not None
    assert loaded.data == config.DataSpec.model_validate(job.spec.data.trainers())
    assert job.spec.checkpoint is not None
    assert loaded.checkpoint is not None
    volume, store = job.spec.checkpoint.volume, job.spec.checkpoint.object_store
    place = volume or store
    assert place is not None
    root = contract.Paths.CHECKPOINTS if store is None else store.url
    assert loaded.checkpoint.directory == f"{root}/{place.sub_path or job.metadata.name}"
    assert loaded.checkpoint.endpoint == (store.endpoint_url or "" if store else "")
    mounted = {mount["name"] for mount in _pod(name)["spec"]["containers"][0]["volumeMounts"]}
    assert ("deepseekjob-checkpoints" in mounted) is (store is None)
    assert loaded.checkpoint.every_steps == (job.spec.checkpoint.interval.steps or STEPS)
    assert loaded.checkpoint.keep == job.spec.checkpoint.keep
    wanted, told = job.spec.checkpoint.resume_from, loaded.checkpoint.resume_from
    assert (wanted is None) == (told is None)
    if wanted is not None and told is not None:
        assert told.directory == f"{Paths.RESUME_FROM if wanted.claim_name else root}/{wanted.sub_path}"
        volumes = {mount["mountPath"] for mount in _pod(name)["spec"]["containers"][0]["volumeMounts"]}
        assert (Paths.RESUME_FROM in volumes) is (wanted.claim_name is not None)
        assert (told.step, told.optimizer) == (wanted.step, wanted.optimizer)


@pytest.mark.parametrize("mode", ["Deterministic", "Dynamic"])
def test_with_ray_the_trainer_finds_its_cluster_in_either_mode(mode: str, tmp_path: Path) -> None:
    ray = EXAMPLES["ray"]
    data = {**ray["spec"]["data"], "mode": mode}
    pod = worker_pod(DeepSeekJob.model_validate({**ray, "spec": {**ray["spec"], "data": data}}), 0, 0, MEMBERSHIP)
    path = tmp_path / "run-config.json"
    path.write_text(pod["metadata"]["annotations"][ANNOTATION_RUN_CONFIG])
    assert config.load(path).data.mode == mode
    environ = {each["name"]: each.get("value", "") for each in pod["spec"]["containers"][0]["env"]}
    assert executor.of(environ) is not None
    assert pod["spec"]["initContainers"][-1]["command"][-1] == "node"


def test_without_a_checkpoint_volume_the_trainer_saves_nothing(tmp_path: Path) -> None:
    manifest = trainer_job()
    del manifest["spec"]["checkpoint"]
    pod = worker_pod(DeepSeekJob.model_validate(manifest), 0, 0, MEMBERSHIP)
    path = tmp_path / "run-config.json"
    path.write_text(pod["metadata"]["annotations"][ANNOTATION_RUN_CONFIG])
    loaded = config.load(path)
    assert loaded.checkpoint is None
    assert loaded.data_cache.startswith(Paths.RUN_DIR)


@pytest.mark.parametrize("name", JOBS)
def test_the_membership_is_one_that_the_agent_reads(name: str) -> None:
    read = contract.Membership.model_validate_json(_pod(name)["metadata"]["annotations"][ANNOTATION_MEMBERSHIP])
    assert read == contract.Membership(
        generation=7, attempt=2, node_rank=3, nodes=8, master="10.0.3.7", port=contract.MASTER_PORT, host=True
    )


@pytest.mark.parametrize("planned", [False, True])
def test_a_planned_move_is_told(planned: bool) -> None:
    told = membership_json(replace(MEMBERSHIP, planned=planned))
    assert contract.Membership.model_validate_json(told).planned is planned


@pytest.mark.parametrize("name", JOBS)
def test_the_annotations_appear_as_the_files_that_the_environment_names(name: str) -> None:
    pod = _pod(name)
    (container,) = pod["spec"]["containers"]
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    files = {
        f"{mounts[volume['name']]}/{item['path']}": item["fieldRef"]["fieldPath"]
        for volume in pod["spec"]["volumes"]
        for item in volume.get("downwardAPI", {}).get("items", [])
    }
    assert ANNOTATION_MEMBERSHIP in files[environment[Env.MEMBERSHIP_FILE]]
    if name in BUILT_IN:
        assert ANNOTATION_RUN_CONFIG in files[environment[Env.RUN_CONFIG_FILE]]
    else:
        assert Env.RUN_CONFIG_FILE not in environment


@pytest.mark.parametrize("name", JOBS)
def test_every_variable_is_in_the_contract_or_the_users(name: str) -> None:
    (container,) = _pod(name)["spec"]["containers"]
    known = {value for key, value in vars(contract.Env).items() if key.isupper()}
    users = {variable.name for variable in _job(name).spec.workers.env}
    ours = {name for name in (variable["name"] for variable in container["env"]) if not name.startswith(OF_LIBRARIES)}
    assert ours <= known | users | {"HOME"}


@pytest.mark.parametrize("name", JOBS)
def test_our_volumes_have_reserved_names_and_paths_and_the_users_have_not(name: str) -> None:
    (container,) = _pod(name)["spec"]["containers"]
    users = {volume.name for volume in _job(name).spec.workers.volumes}
    for mount in container["volumeMounts"]:
        ours = mount["name"] not in users
        assert mount["name"].startswith(RESERVED_VOLUME_PREFIX) is ours
        assert (
            any(mount["mountPath"] == path or mount["mountPath"].startswith(f"{path}/") for path in RESERVED_MOUNTS)
            is ours
        )


def test_the_annotation_of_the_largest_run_config_is_far_from_kubernetes_limit() -> None:
    annotations = _pod("gpu-nccl")["metadata"]["annotations"]
    assert len(json.dumps(annotations)) < 16 * 1024
