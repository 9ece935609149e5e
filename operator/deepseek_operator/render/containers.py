"""The containers of a worker pod: the worker, and the user's beside it.

Rule: all of them are confined alike, and as the *restricted* pod security standard wants it: no user of any node, a
read-only root file system with a /tmp of the pod's own, no capability, no way to gain one.
"""

from __future__ import annotations

from typing import Any

from deepseek_operator.api.containers import HelperContainer
from deepseek_operator.api.names import AGENT_PORT, CONTAINER, RAY_CONTAINER, Paths
from deepseek_operator.api.ray import Ray
from deepseek_operator.api.resources import Resources
from deepseek_operator.api.v1alpha1 import DeepSeekJob
from deepseek_operator.render.environment import environment_from, helper_environment, worker_environment
from deepseek_operator.render.volumes import helper_mounts, worker_mounts

AGENT = ["python", "-m", "deepseek_trainer.agent"]


def worker(job: DeepSeekJob) -> dict[str, Any]:
    """The container that trains."""
    workers = job.spec.workers
    optional = {
        "imagePullPolicy": workers.image_pull_policy,
        "envFrom": environment_from(workers.env_from),
    }
    return {
        "name": CONTAINER,
        "image": workers.image,
        "command": command(job),
        "env": worker_environment(job),
        **{key: value for key, value in optional.items() if value},
        "ports": [{"name": "agent", "containerPort": AGENT_PORT, "protocol": "TCP"}],
        "resources": resources(workers.resources),
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "agent"},
            "periodSeconds": 2,
            "timeoutSeconds": 2,
            "failureThreshold": 3,
        },
        "securityContext": confinement(),
        "terminationMessagePath": Paths.TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": worker_mounts(job),
    }


def helpers(job: DeepSeekJob) -> list[dict[str, Any]]:
    """The user's init containers, and behind them the sidecars, the raylet last.

    A sidecar is an init container that is always restarted: Kubernetes starts it before the worker, leaves it running,
    and stops it when the worker has ended, so that it neither delays a start for ever nor keeps a finished pod alive.
    The init containers come first, so that a sidecar may use what they made.
    """
    workers, ray = job.spec.workers, job.spec.ray
    return [
        *[_helper(job, helper) for helper in workers.init_containers],
        *[_helper(job, helper) | {"restartPolicy": "Always"} for helper in workers.sidecars],
        *([_raylet(job, ray)] if ray is not None else []),
    ]


def _raylet(job: DeepSeekJob, ray: Ray) -> dict[str, Any]:
    """What sees all that the worker sees: Ray's tasks read its data and write to its volumes.

    It has no probe. Nobody waits for it, and when it ends it is started again beside the worker.
    """
    return {
        **ray_container(job, ray, "node"),
        "restartPolicy": "Always",
        "env": worker_environment(job),
        **({"envFrom": found} if (found := environment_from(job.spec.workers.env_from)) else {}),
        "resources": resources(ray.raylet.resources),
        "volumeMounts": worker_mounts(job),
    }


def ray_container(job: DeepSeekJob, ray: Ray, part: str) -> dict[str, Any]:
    """What the head and the raylets have in common."""
    pull = job.spec.workers.image_pull_policy
    return {
        "name": RAY_CONTAINER,
        "image": ray.image or job.spec.workers.image,
        **({"imagePullPolicy": pull} if pull else {}),
        "command": ["python", "-m", "deepseek_trainer.raycluster", part],
        "securityContext": confinement(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _helper(job: DeepSeekJob, helper: HelperContainer) -> dict[str, Any]:
    optional = {"command": list(helper.command), "args": list(helper.args)}
    return {
        "name": helper.name,
        "image": helper.image,
        "imagePullPolicy": helper.image_pull_policy,
        **{key: value for key, value in optional.items() if value},
        "env": helper_environment(job, helper),
        "resources": resources(helper.resources),
        "securityContext": confinement(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": helper_mounts(helper),
    }


def command(job: DeepSeekJob) -> list[str]:
    """What the worker runs: the agent, followed by the user's script or module if the job has one."""
    entrypoint = job.spec.entrypoint
    if entrypoint is None:
        return list(AGENT)
    target = [entrypoint.script] if entrypoint.script else ["-m", entrypoint.module or ""]
    return [*AGENT, *target, *entrypoint.args]


def resources(wanted: Resources) -> dict[str, Any]:
    """Requests and limits, where there are any."""
    kinds = {"requests": wanted.requests, "limits": wanted.limits}
    return {kind: dict(amounts) for kind, amounts in kinds.items() if amounts}


def confinement() -> dict[str, Any]:
    """The security context of every container."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
