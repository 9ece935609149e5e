"""The worker pod's manifest.

Rules: it satisfies the *restricted* pod security standard; it carries no API token; nothing in it depends on
anything but the job, the slot, the incarnation and the membership that it is born with.
"""

from __future__ import annotations

from typing import Any

from deepseek_operator.api.names import (
    AGENT_PORT,
    ANNOTATION_MEMBERSHIP,
    ANNOTATION_RUN_CONFIG,
    CONTAINER,
    Env,
    Paths,
)
from deepseek_operator.api.v1alpha1 import DeepSeekJob, EnvVar, Workers
from deepseek_operator.render.identity import child_metadata, pod_labels, pod_name, service_name
from deepseek_operator.render.membership import Membership, membership_json
from deepseek_operator.render.runconfig import checkpoint_directory, run_config_json
from deepseek_operator.render.volumes import TMP, mounted_volumes

USER_ID = 65532
"""Uid and gid of the worker: nobody's account on any node."""
GRACE_PERIOD_S = 30
LOST_NODE_S = 30
"""How long a pod stays bound to a node that doesn't answer."""
AGENT = ["python", "-m", "deepseek_trainer.agent"]


def command(job: DeepSeekJob) -> list[str]:
    """What the container runs: the agent, followed by the user's script or module if the job has one."""
    entrypoint = job.spec.entrypoint
    if entrypoint is None:
        return list(AGENT)
    target = [entrypoint.script] if entrypoint.script else ["-m", entrypoint.module or ""]
    return [*AGENT, *target, *entrypoint.args]


def _field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _user_variable(variable: EnvVar) -> dict[str, Any]:
    return variable.model_dump(by_alias=True, exclude_none=True)


def environment(job: DeepSeekJob) -> list[dict[str, Any]]:
    """The container's variables; the user's come last and may replace HOME, never ours."""
    spec, meta = job.spec, job.metadata
    constants = {
        Env.JOB_NAME: meta.name,
        Env.JOB_NAMESPACE: meta.namespace,
        Env.JOB_UID: meta.uid,
        Env.MEMBERSHIP_FILE: Paths.MEMBERSHIP_FILE,
        Env.RUN_DIR: Paths.RUN_DIR,
        Env.PROC_PER_NODE: str(spec.workers.processes()),
        Env.BACKEND: spec.backend,
        Env.MAX_PROCESS_RESTARTS: str(spec.recovery.max_process_restarts),
        Env.AGENT_PORT: str(AGENT_PORT),
        Env.TERMINATION_LOG: Paths.TERMINATION_LOG,
        "HOME": TMP,
    }
    if spec.trainer is not None:
        constants[Env.RUN_CONFIG_FILE] = Paths.RUN_CONFIG_FILE
    if directory := checkpoint_directory(job):
        constants[Env.CHECKPOINT_DIR] = directory
    if spec.recovery.prewarm:
        constants[Env.PREWARM] = "1"
    users = {variable.name for variable in spec.workers.env}
    return [
        _field(Env.POD_NAME, "metadata.name"),
        _field(Env.POD_IP, "status.podIP"),
        _field(Env.NODE_NAME, "spec.nodeName"),
        *[{"name": name, "value": value} for name, value in constants.items() if name not in users],
        *[_user_variable(variable) for variable in spec.workers.env],
    ]


def _resources(workers: Workers) -> dict[str, Any]:
    wanted = {"requests": workers.resources.requests, "limits": workers.resources.limits}
    return {kind: dict(amounts) for kind, amounts in wanted.items() if amounts}


def _container(job: DeepSeekJob, mounts: list[dict[str, Any]]) -> dict[str, Any]:
    workers = job.spec.workers
    return {
        "name": CONTAINER,
        "image": workers.image,
        "imagePullPolicy": workers.image_pull_policy or "IfNotPresent",
        "command": command(job),
        "env": environment(job),
        "ports": [{"name": "agent", "containerPort": AGENT_PORT, "protocol": "TCP"}],
        "resources": _resources(workers),
        "readinessProbe": {
            "httpGet": {"path": "/healthz", "port": "agent"},
            "periodSeconds": 2,
            "timeoutSeconds": 2,
            "failureThreshold": 3,
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": Paths.TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }


def _tolerations(workers: Workers) -> list[dict[str, Any]]:
    """The user's, and ours for nodes that are gone, so that a gang waits for half a minute and not for five.

    Kubernetes evicts pods from a node that doesn't answer after 300 s, unless the pod says otherwise.
    """
    users = [toleration.model_dump(by_alias=True, exclude_none=True) for toleration in workers.tolerations]
    named = {toleration.key for toleration in workers.tolerations}
    ours = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": LOST_NODE_S}
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        if key not in named and None not in named
    ]
    return [*users, *ours]


def _placement(workers: Workers) -> dict[str, Any]:
    """Where the pod may run and with which credentials its image is pulled; only what was asked for."""
    wanted: dict[str, Any] = {
        "nodeSelector": dict(workers.node_selector),
        "tolerations": _tolerations(workers),
        "imagePullSecrets": [{"name": secret.name} for secret in workers.image_pull_secrets],
    }
    return {key: value for key, value in wanted.items() if value}


def worker_pod(job: DeepSeekJob, slot: int, incarnation: int, membership: Membership | None) -> dict[str, Any]:
    """Manifest of one worker pod, with its part in the generation that it is born into; None: it is told later."""
    meta = job.metadata
    name = pod_name(meta.name, slot, incarnation)
    annotations = {ANNOTATION_MEMBERSHIP: membership_json(membership)} if membership is not None else {}
    run_config = run_config_json(job)
    if run_config is not None:
        annotations[ANNOTATION_RUN_CONFIG] = run_config
    mounted = mounted_volumes(job)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": child_metadata(job, name, pod_labels(meta, slot, incarnation)) | {"annotations": annotations},
        "spec": {
            "restartPolicy": "Never",
            "hostname": name,
            "subdomain": service_name(meta.name),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": GRACE_PERIOD_S,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER_ID,
                "runAsGroup": USER_ID,
                "fsGroup": USER_ID,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            **_placement(job.spec.workers),
            "containers": [_container(job, [mount for _, mount in mounted])],
            "volumes": [volume for volume, _ in mounted],
        },
    }
