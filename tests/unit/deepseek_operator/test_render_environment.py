"""The environment of a worker pod: what the job says of its network, its check and its processes, and who wins."""

from __future__ import annotations

from typing import Any

import pytest
from deepseek_operator.api.names import Env
from deepseek_operator.api.v1alpha1 import DeepSeekJob
from deepseek_operator.render.containers import helpers, worker
from support.make import make_job, make_script_manifest, observe

WATCHDOG = "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC"
NETWORK = ("NCCL_", "GLOO_", "TORCH_NCCL_")


def variables(container: dict[str, Any]) -> dict[str, Any]:
    """Name -> value, or where it comes from. A name that is there twice is an error."""
    names = [variable["name"] for variable in container["env"]]
    assert len(set(names)) == len(names)
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container["env"]}


def rendered(workers: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """Of a job with the documented defaults filled in, as the operator renders it."""
    return variables(worker(observe(make_job(workers=workers, spec=spec)).job))


def network(**spec: Any) -> dict[str, str]:
    return {name: value for name, value in rendered(**spec).items() if name.startswith(NETWORK)}


DEFAULT = {"NCCL_DEBUG": "WARN", WATCHDOG: "600"}


@pytest.mark.parametrize(
    ("communication", "expected"),
    [
        ({}, DEFAULT),
        ({"interface": "eth0"}, DEFAULT | {"NCCL_SOCKET_IFNAME": "eth0", "GLOO_SOCKET_IFNAME": "eth0"}),
        ({"interface": "bond0.7"}, DEFAULT | {"NCCL_SOCKET_IFNAME": "bond0.7", "GLOO_SOCKET_IFNAME": "bond0.7"}),
        # What only NCCL understands is not given to gloo.
        ({"interface": "=eth0"}, DEFAULT | {"NCCL_SOCKET_IFNAME": "=eth0"}),
        ({"interface": "^docker0"}, DEFAULT | {"NCCL_SOCKET_IFNAME": "^docker0"}),
        ({"interface": "^=lo"}, DEFAULT | {"NCCL_SOCKET_IFNAME": "^=lo"}),
        ({"interface": "eth0,eth1"}, DEFAULT | {"NCCL_SOCKET_IFNAME": "eth0,eth1"}),
        ({"infiniband": False}, DEFAULT | {"NCCL_IB_DISABLE": "1"}),
        ({"infiniband": True}, DEFAULT),
        ({"ibHca": "mlx5_0:1,mlx5_1:1"}, DEFAULT | {"NCCL_IB_HCA": "mlx5_0:1,mlx5_1:1"}),
        ({"ibGidIndex": 0}, DEFAULT | {"NCCL_IB_GID_INDEX": "0"}),
        ({"ibTimeout": 22}, DEFAULT | {"NCCL_IB_TIMEOUT": "22"}),
        ({"debug": "INFO"}, DEFAULT | {"NCCL_DEBUG": "INFO"}),
        # The watchdog's own time follows the collectives', but leaves room for the first one.
        ({"timeoutSeconds": 1800}, DEFAULT | {WATCHDOG: "1800"}),
        ({"timeoutSeconds": 30}, DEFAULT | {WATCHDOG: "120"}),
    ],
)
def test_the_network_becomes_environment(communication: dict[str, Any], expected: dict[str, str]) -> None:
    assert network(communication=communication) == expected


def test_with_gloo_nothing_is_said_to_nccl() -> None:
    found = network(backend="gloo", communication={"interface": "eth0", "infiniband": False, "debug": "INFO"})
    assert found == {"GLOO_SOCKET_IFNAME": "eth0"}


@pytest.mark.parametrize(("given", "told"), [({}, "600"), ({"timeoutSeconds": 45}, "45")])
@pytest.mark.parametrize("backend", ["auto", "nccl", "gloo"])
def test_the_time_of_a_collective_is_always_told(given: dict[str, int], told: str, backend: str) -> None:
    assert rendered(backend=backend, communication=given)[Env.COLLECTIVE_TIMEOUT] == told


@pytest.mark.parametrize(
    ("variable", "communication"),
    [
        ("NCCL_DEBUG", {"debug": "WARN"}),
        ("NCCL_SOCKET_IFNAME", {"interface": "eth0"}),
        ("GLOO_SOCKET_IFNAME", {"interface": "eth0"}),
        ("NCCL_IB_DISABLE", {"infiniband": False}),
        (WATCHDOG, {}),
        ("HOME", {}),
    ],
)
def test_the_users_own_variable_wins(variable: str, communication: dict[str, Any]) -> None:
    own = {"name": variable, "value": "mine"}
    assert rendered({"env": [own]}, communication=communication)[variable] == "mine"


def test_the_users_variables_come_last_so_that_they_may_refer_to_ours() -> None:
    own = [{"name": "RUN", "value": "$(DEEPSEEKJOB_NAME)-$(DEEPSEEKJOB_POD_NAME)"}]
    assert worker(make_job(workers={"env": own}))["env"][-1] == own[0]


@pytest.mark.parametrize(
    ("preflight", "expected"),
    [
        (None, {}),
        ({}, {Env.PREFLIGHT_TIMEOUT: "120"}),
        (
            {"timeoutSeconds": 30, "minBandwidthMbps": 900},
            {Env.PREFLIGHT_TIMEOUT: "30", Env.PREFLIGHT_MIN_MBPS: "900"},
        ),
    ],
)
def test_the_check_before_the_first_step(preflight: dict[str, int] | None, expected: dict[str, str]) -> None:
    found = rendered(**({} if preflight is None else {"preflight": preflight}))
    assert {name: value for name, value in found.items() if "PREFLIGHT" in name} == expected


@pytest.mark.parametrize(
    ("workers", "processes"),
    [
        ({}, "1"),
        ({"procPerNode": "auto"}, "1"),
        ({"procPerNode": 4}, "4"),
        ({"procPerNode": "4", "resources": {"limits": {"nvidia.com/gpu": 8}}}, "4"),
        ({"resources": {"limits": {"nvidia.com/gpu": 8}}}, "8"),
        ({"procPerNode": "auto", "resources": {"limits": {"nvidia.com/gpu": "2"}}}, "2"),
        ({"resources": {"requests": {"nvidia.com/gpu": 4}, "limits": {"nvidia.com/gpu": 4}}}, "4"),
        ({"resources": {"limits": {"nvidia.com/gpu": 0}}}, "1"),
        ({"resources": {"limits": {"cpu": 8}}}, "1"),
    ],
)
def test_processes_of_a_pod(workers: dict[str, Any], processes: str) -> None:
    assert rendered(workers)[Env.PROC_PER_NODE] == processes


@pytest.mark.parametrize(
    ("program", "prewarm", "told"),
    [
        ("trainer", None, "1"),
        ("trainer", False, None),
        ("trainer", True, "1"),
        ("script", None, None),
        ("script", False, None),
        ("script", True, "1"),
    ],
)
def test_the_built_in_trainer_is_prewarmed_and_a_script_where_it_is_wanted(
    program: str, prewarm: bool | None, told: str | None
) -> None:
    recovery = {} if prewarm is None else {"prewarm": prewarm}
    job = make_job(spec={"recovery": recovery})
    if program == "script":
        manifest = make_script_manifest()
        job = DeepSeekJob.model_validate(manifest | {"spec": manifest["spec"] | {"recovery": recovery}})
    assert variables(worker(observe(job).job)).get(Env.PREWARM) == told


def test_sources_of_many_variables() -> None:
    sources = [{"configMapRef": {"name": "common"}}, {"prefix": "S3_", "secretRef": {"name": "s3"}}]
    assert worker(make_job(workers={"envFrom": sources}))["envFrom"] == sources


def test_a_helper_knows_whose_it_is_and_has_a_home() -> None:
    helper = {"name": "h", "image": "i", "env": [{"name": "A", "value": "1"}]}
    (container,) = helpers(make_job(workers={"sidecars": [helper]}))
    assert set(variables(container)) == {
        *(Env.POD_NAME, Env.NODE_NAME, Env.JOB_NAME, Env.JOB_NAMESPACE, Env.JOB_UID),
        *("HOME", "A"),
    }
    helper["env"] = [{"name": "HOME", "value": "/scratch"}]
    (container,) = helpers(make_job(workers={"sidecars": [helper]}))
    assert variables(container)["HOME"] == "/scratch"
