"""A job with data.ray: what its pods get of it, how large things are by default, and what it may ask of a profile."""

from __future__ import annotations

from typing import Any

import pytest
from deepseek_operator.api.fields import parse_quantity
from deepseek_operator.api.limits import violations
from deepseek_operator.api.names import LABEL_JOB_UID, LABEL_RAY, LABEL_RAY_HEAD, LABEL_SLOT, Env, RayPorts
from deepseek_operator.api.profile import Limits, ProfileSpec
from deepseek_operator.api.resolve import Misfit, resolve
from deepseek_operator.api.v1alpha1 import DeepSeekJob
from deepseek_operator.decide.effective import effective
from deepseek_operator.render import disruption_budget, headless_service, worker_pod
from deepseek_operator.render.placement import placement
from deepseek_operator.render.ray import head_pod, head_service, network_policy
from support.make import UID, make_job

GI = 2**30
NODES: dict[str, Any] = {
    "requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}]
    }
}


def job(ray: dict[str, Any] | None = None, *, profile: str | None = None, **options: Any) -> DeepSeekJob:
    data = {"data": {"corpus": "chitchat", "ray": ray or {}}} | ({"profile": profile} if profile else {})
    return make_job(**{**options, "spec": data | options.get("spec", {})})


def head(of: DeepSeekJob) -> dict[str, Any]:
    assert of.spec.ray is not None
    return head_pod(of, of.spec.ray, 0)


def worker_and_raylet(of: DeepSeekJob) -> tuple[dict[str, Any], dict[str, Any]]:
    spec = worker_pod(effective(of).job, 0, 0, None)["spec"]
    return spec["containers"][0], spec["initContainers"][-1]


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable.get("value", "") for variable in container["env"]}


def test_the_raylet_sees_what_the_worker_sees() -> None:
    volume = {"name": "corpus", "mountPath": "/data", "persistentVolumeClaim": {"claimName": "corpus"}}
    worker, raylet = worker_and_raylet(
        job(workers={"volumes": [volume], "env": [{"name": "HF_HOME", "value": "/data/hf"}]})
    )
    assert (raylet["name"], raylet["restartPolicy"]) == ("ray", "Always")
    assert raylet["volumeMounts"] == worker["volumeMounts"]
    assert raylet["env"] == worker["env"]
    assert raylet["image"] == worker["image"]
    assert raylet["securityContext"] == worker["securityContext"]
    assert {"/dev/shm", "/tmp"} <= {mount["mountPath"] for mount in raylet["volumeMounts"]}


def test_nobody_waits_for_the_raylet() -> None:
    _, raylet = worker_and_raylet(job())
    assert not [field for field in raylet if field.endswith("Probe")]
    pod = worker_pod(effective(job()).job, 0, 0, None)
    [token] = [volume["secret"] for volume in pod["spec"]["volumes"] if "secret" in volume]
    assert token["optional"] is True


def test_nobody_can_choose_to_do_without_the_token() -> None:
    mine = [{"name": "RAY_AUTH_MODE", "value": "disabled"}, {"name": "RAY_AUTH_TOKEN_PATH", "value": "/mine"}]
    for container in worker_and_raylet(job(workers={"env": mine})):
        assert [v["value"] for v in container["env"] if v["name"] == "RAY_AUTH_MODE"] == ["token"]
        assert environment(container)["RAY_AUTH_TOKEN_PATH"] == "/var/run/deepseekjob/ray/token"


@pytest.mark.parametrize(
    ("ray", "shared_memory", "expected"),
    [
        ({}, None, GI // 2),
        ({}, "512Mi", GI // 4),
        ({}, "16Gi", 3 * GI // 2),  # half of the raylet's memory
        ({"raylet": {"resources": {"limits": {"memory": "32Gi"}}}}, "16Gi", 8 * GI),
        ({"raylet": {"resources": {"requests": {"cpu": "1"}}}}, "16Gi", 8 * GI),
        ({}, "100Mi", 80 * 2**20),
        ({"objectStore": "1Gi"}, "16Gi", GI),
    ],
)
def test_size_of_the_object_store(ray: dict[str, Any], shared_memory: str | None, expected: int) -> None:
    workers = {"sharedMemory": shared_memory} if shared_memory else {}
    worker, raylet = worker_and_raylet(job(ray, workers=workers))
    assert {environment(c)[Env.RAY_OBJECT_STORE] for c in (worker, raylet)} == {str(expected)}


def test_the_object_store_is_a_part_of_a_shared_memory_that_there_is() -> None:
    pod = worker_pod(effective(job()).job, 0, 0, None)
    [memory] = [v["emptyDir"]["sizeLimit"] for v in pod["spec"]["volumes"] if v["name"] == "deepseekjob-shm"]
    assert memory == "1Gi"


def test_the_head_is_found_by_nothing_that_looks_for_workers() -> None:
    of = effective(job(spec={"lifecycle": {"maxUnavailable": 1}})).job
    labels = head(of)["metadata"]["labels"]
    assert not {LABEL_JOB_UID, LABEL_SLOT} & set(labels)
    budget = disruption_budget(of, of.status)
    assert budget is not None
    for selector in (headless_service(of)["spec"]["selector"], budget["spec"]["selector"]["matchLabels"]):
        assert not selector.items() <= labels.items()


def test_the_service_points_at_one_head() -> None:
    selector = head_service(job(), 3)["spec"]["selector"]
    assert selector == {LABEL_RAY: UID, LABEL_RAY_HEAD: "3"}


def test_the_head_goes_to_the_workers_kind_of_nodes_but_not_beside_them() -> None:
    near = {"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": "zone"}
    workers = {
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "priorityClassName": "research",
        "affinity": {
            "nodeAffinity": NODES,
            "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [near]},
        },
    }
    of = job(workers=workers, spec={"scheduling": {"topology": {"key": "zone", "mode": "Required"}}})
    spec, same = head(of)["spec"], placement(of)
    for field in ("nodeSelector", "tolerations", "priorityClassName"):
        assert spec[field] == same[field]
    assert set(spec["affinity"]) == {"nodeAffinity"}


def test_volcano_is_told_the_queue_of_a_head_that_is_in_no_group() -> None:
    of = job(spec={"scheduling": {"gang": "Volcano", "queue": "research"}})
    assert head(of)["metadata"]["annotations"] == {"scheduling.volcano.sh/queue-name": "research"}
    assert head(of)["spec"]["schedulerName"] == "volcano"


def test_the_policy_closes_the_ports_of_ray_and_no_other() -> None:
    of = job()
    assert of.spec.ray is not None
    policy = network_policy(of, of.spec.ray)
    assert policy is not None
    inside, outside = policy["spec"]["ingress"]
    assert set(inside) == {"from"}
    open_ports = {
        port
        for rule in outside["ports"]
        if rule["protocol"] == "TCP"
        for port in range(rule["port"], rule["endPort"] + 1)
    }
    rays = {RayPorts.GCS, RayPorts.NODE_MANAGER, RayPorts.OBJECT_MANAGER}
    rays |= {port for first, last in (RayPorts.AGENTS, RayPorts.WORKERS) for port in range(first, last + 1)}
    assert set(range(1, 65536)) - open_ports == rays


def test_no_task_runs_in_the_head() -> None:
    [container] = head(job({"raylet": {"cpus": 4}}))["spec"]["containers"]
    worker, _ = worker_and_raylet(job({"raylet": {"cpus": 4}}))
    assert (environment(container)[Env.RAY_CPUS], environment(worker)[Env.RAY_CPUS]) == ("0", "4")
    size = int(environment(container)[Env.RAY_OBJECT_STORE])
    assert parse_quantity("80Mi") <= size < parse_quantity("256Mi")


# -- with a profile ------------------------------------------------------------------------------------------------


def test_a_profiles_shared_memory_must_hold_the_object_store() -> None:
    profile = ProfileSpec.model_validate({"workers": {"sharedMemory": "512Mi"}})
    with pytest.raises(Misfit, match=r"data\.ray\.objectStore.*raise workers\.sharedMemory"):
        resolve(job({"objectStore": "1Gi"}, profile="p").spec, profile)


def test_a_profile_without_shared_memory_leaves_the_default() -> None:
    assert resolve(job(profile="p").spec, ProfileSpec()).workers.shared_memory == "1Gi"
    with pytest.raises(Misfit, match="1Gi where it is not set"):
        resolve(job({"objectStore": "2Gi"}, profile="p").spec, ProfileSpec())


@pytest.mark.parametrize(
    ("ray", "limits", "said"),
    [
        ({}, {"maxResources": {"memory": "3Gi"}}, "limits[memory] is 5368709120 over all containers"),
        (
            {"head": {"resources": {"limits": {"memory": "9Gi"}}}},
            {"maxResources": {"memory": "8Gi"}},
            "data.ray.head.resources.limits[memory] is 9Gi, at most 8Gi allowed",
        ),
        ({"image": "other.io/ray:1"}, {"imagePrefixes": ["ghcr.io/"]}, "data.ray.image is other.io/ray:1"),
    ],
)
def test_a_profile_limits_ray_too(ray: dict[str, Any], limits: dict[str, Any], said: str) -> None:
    of = job(ray, workers={"resources": {"limits": {"memory": "2Gi"}}})
    assert said in "; ".join(violations(of.spec, Limits.model_validate(limits)))
