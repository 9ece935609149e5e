"""The environment of the pod's containers.

Rules: what the operator says (DEEPSEEKJOB_*) can't be overridden, the API refuses such names; every other variable of
ours, but for Ray's token, gives way to the user's of the same name. The user's come last, so that they may refer to ours
as $(NAME).
"""

from __future__ import annotations

import re
from typing import Any

from deepseek_operator.api.containers import EnvFrom, EnvVar, HelperContainer
from deepseek_operator.api.fields import parse_quantity
from deepseek_operator.api.names import AGENT_PORT, Env, Paths
from deepseek_operator.api.ray import object_store_bytes
from deepseek_operator.api.v1alpha1 import DeepSeekJob, Spec
from deepseek_operator.render.grace import saving_s
from deepseek_operator.render.identity import ray_dns
from deepseek_operator.render.runconfig import checkpoint_directory
from deepseek_operator.render.volumes import HEAD_SHARED_MEMORY, TMP

WATCHDOG_FLOOR_S = 120
"""Loading CUDA and the first collective may hold torch's watchdog up for that long without any harm."""
_PLAIN_INTERFACE = re.compile(r"[A-Za-z0-9_.-]+")

Variables = list[dict[str, Any]]


def worker_environment(job: DeepSeekJob) -> Variables:
    """Variables of the worker container."""
    spec = job.spec
    variables = _with_users(
        [
            *_identity(job),
            {"name": Env.POD_IP, **_field("status.podIP")},
            *_literals(_contract(job) | communication(job) | {"HOME": TMP}),
        ],
        spec.workers.env,
    )
    if spec.ray is None:
        return variables
    ours = ray_variables(job, spec.ray.raylet.cpus, object_store_bytes(spec.ray, spec.workers.shared_memory))
    return [*[variable for variable in variables if variable["name"] not in ours], *_literals(ours)]


def head_environment(job: DeepSeekJob) -> Variables:
    """Variables of the Ray head."""
    ours = ray_variables(job, cpus=0, object_store=int(parse_quantity(HEAD_SHARED_MEMORY)) // 2)
    address = {"name": Env.POD_IP, **_field("status.podIP")}
    return [*_identity(job), address, *_literals(ours | {"HOME": TMP})]


def ray_variables(job: DeepSeekJob, cpus: int, object_store: int) -> dict[str, str]:
    """The Ray cluster, for those in it. Nobody can choose to do without the token."""
    return {
        Env.RAY_HEAD: ray_dns(job.metadata),
        Env.RAY_CPUS: str(cpus),
        Env.RAY_OBJECT_STORE: str(object_store),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": Paths.RAY_TOKEN,
    }


def helper_environment(job: DeepSeekJob, helper: HelperContainer) -> Variables:
    """Variables of an init container or a sidecar: whose it is, and its own."""
    return _with_users([*_identity(job), *_literals({"HOME": TMP})], helper.env)


def environment_from(sources: list[EnvFrom]) -> Variables:
    """ConfigMaps and Secrets whose keys become variables; a variable that is named in `env` wins over them."""
    return [source.model_dump(by_alias=True, exclude_none=True) for source in sources]


def communication(job: DeepSeekJob) -> dict[str, str]:
    """The network of the collectives, as NCCL, gloo and torch read it."""
    wanted, timeout_s = job.spec.communication, job.spec.communication.timeout_seconds
    nccl = {
        "NCCL_SOCKET_IFNAME": wanted.interface,
        "NCCL_IB_DISABLE": "1" if wanted.infiniband is False else None,
        "NCCL_IB_HCA": wanted.ib_hca,
        "NCCL_IB_GID_INDEX": wanted.ib_gid_index,
        "NCCL_IB_TIMEOUT": wanted.ib_timeout,
        "NCCL_DEBUG": wanted.debug,
        # torch ends a collective that is over its time from a watchdog thread, which a stuck driver can block too. A
        # monitor then ends the process, by default after 480 s whatever the collective's own time is.
        "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": max(timeout_s, WATCHDOG_FLOOR_S) if timeout_s else None,
    }
    plain = wanted.interface and _PLAIN_INTERFACE.fullmatch(wanted.interface)
    told = {
        **(nccl if job.spec.backend != "gloo" else {}),
        "GLOO_SOCKET_IFNAME": wanted.interface if plain else None,
        Env.COLLECTIVE_TIMEOUT: timeout_s,
    }
    return {name: str(value) for name, value in told.items() if value is not None}


def _contract(job: DeepSeekJob) -> dict[str, str]:
    """What the agent is told, beside who it is."""
    spec = job.spec
    told = {
        Env.MEMBERSHIP_FILE: Paths.MEMBERSHIP_FILE,
        Env.RUN_DIR: Paths.RUN_DIR,
        Env.PROC_PER_NODE: str(spec.workers.processes()),
        Env.BACKEND: spec.backend,
        Env.MAX_PROCESS_RESTARTS: str(spec.recovery.max_process_restarts),
        Env.AGENT_PORT: str(AGENT_PORT),
        Env.TERMINATION_LOG: Paths.TERMINATION_LOG,
        Env.TERMINATION_GRACE: str(saving_s(job)),
        Env.HANG_TIMEOUT: str(spec.recovery.hang_timeout_seconds),
        Env.HANG_FACTOR: str(spec.recovery.hang_factor),
    }
    if spec.recovery.hang_floor_seconds is not None:
        told[Env.HANG_FLOOR] = str(spec.recovery.hang_floor_seconds)
    if spec.trainer is not None:
        told[Env.RUN_CONFIG_FILE] = Paths.RUN_CONFIG_FILE
    if directory := checkpoint_directory(job):
        told[Env.CHECKPOINT_DIR] = directory
    if _is_prewarmed(spec):
        told[Env.PREWARM] = "1"
    if spec.preflight is not None:
        told[Env.PREFLIGHT_TIMEOUT] = str(spec.preflight.timeout_seconds)
        if spec.preflight.min_bandwidth_mbps is not None:
            told[Env.PREFLIGHT_MIN_MBPS] = str(spec.preflight.min_bandwidth_mbps)
    return told


def _is_prewarmed(spec: Spec) -> bool:
    """By default where it is known what the imports do."""
    wanted = spec.recovery.prewarm
    return spec.trainer is not None if wanted is None else wanted


def _identity(job: DeepSeekJob) -> Variables:
    """Who the pod is."""
    meta = job.metadata
    return [
        {"name": Env.POD_NAME, **_field("metadata.name")},
        {"name": Env.NODE_NAME, **_field("spec.nodeName")},
        *_literals({Env.JOB_NAME: meta.name, Env.JOB_NAMESPACE: meta.namespace, Env.JOB_UID: meta.uid}),
    ]


def _field(path: str) -> dict[str, Any]:
    return {"valueFrom": {"fieldRef": {"fieldPath": path}}}


def _literals(values: dict[str, str]) -> Variables:
    return [{"name": name, "value": value} for name, value in values.items()]


def _with_users(ours: Variables, users: list[EnvVar]) -> Variables:
    taken = {variable.name for variable in users}
    kept = [variable for variable in ours if variable["name"] not in taken]
    return [*kept, *[variable.model_dump(by_alias=True, exclude_none=True) for variable in users]]
