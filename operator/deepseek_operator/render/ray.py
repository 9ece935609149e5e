"""What a job with data.ray has beside its workers: the head's pod and Service, the token's Secret, the NetworkPolicy.

Rules: the head is confined as the workers are, and needs nothing of the cluster's but its image. Its pod has a number in its
name and the Service points at one number, so that neither waits for a predecessor that is stuck in Terminating. Whatever
selects the job's workers doesn't find the head.
"""

from __future__ import annotations

from typing import Any

from deepseek_operator.api.names import LABEL_RAY_HEAD, RayPorts
from deepseek_operator.api.ray import Ray
from deepseek_operator.api.v1alpha1 import DeepSeekJob
from deepseek_operator.render.containers import ray_container, resources
from deepseek_operator.render.environment import head_environment
from deepseek_operator.render.gang import VOLCANO, gang_scheduler
from deepseek_operator.render.identity import (
    child_metadata,
    head_labels,
    head_name,
    job_labels,
    ray_labels,
    ray_name,
    token_name,
)
from deepseek_operator.render.placement import head_placement
from deepseek_operator.render.pods import pod_security
from deepseek_operator.render.volumes import head_mounted

SECRET = "Secret"  # noqa: S105 - a kind
POLICY = "NetworkPolicy"
TOKEN_KEY = "token"  # noqa: S105 - the name of the file
GRACE_S = 5
"""The head has nothing to save."""
VOLCANO_QUEUE = "scheduling.volcano.sh/queue-name"
_LAST_PORT = 65535


def head_pod(job: DeepSeekJob, ray: Ray, number: int) -> dict[str, Any]:
    """Manifest of the head's pod. It is never started again in its pod: the operator makes the next one."""
    workers, mounted = job.spec.workers, head_mounted(job)
    optional = {
        "serviceAccountName": workers.service_account_name,
        "imagePullSecrets": [{"name": secret.name} for secret in workers.image_pull_secrets],
    }
    name, labels = head_name(job.metadata.name, number), head_labels(job.metadata, number)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**child_metadata(job, name, labels), "annotations": _annotations(job)},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": GRACE_S,
            "securityContext": pod_security(),
            **head_placement(job),
            **{key: value for key, value in optional.items() if value},
            "containers": [
                {
                    **ray_container(job, ray, "head"),
                    "env": head_environment(job),
                    "ports": [{"name": "gcs", "containerPort": RayPorts.GCS, "protocol": "TCP"}],
                    "resources": resources(ray.head.resources),
                    "startupProbe": _listens(period_s=2, failures=60),
                    "readinessProbe": _listens(period_s=5, failures=3),
                    "livenessProbe": _listens(period_s=10, failures=6),
                    "volumeMounts": [mount for _, mount in mounted],
                }
            ],
            "volumes": [volume for volume, _ in mounted],
        },
    }


def head_service(job: DeepSeekJob, number: int) -> dict[str, Any]:
    """Manifest of the headless Service that has the address of the head with that number, and of no other."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(job, ray_name(job.metadata.name), job_labels(job.metadata)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": ray_labels(job.metadata) | {LABEL_RAY_HEAD: str(number)},
            "ports": [{"name": "gcs", "port": RayPorts.GCS, "targetPort": RayPorts.GCS, "protocol": "TCP"}],
        },
    }


def token_secret(job: DeepSeekJob) -> dict[str, Any]:
    """Manifest of the Secret, without its token: whoever creates it makes one up."""
    return {
        "apiVersion": "v1",
        "kind": SECRET,
        "metadata": child_metadata(job, token_name(job.metadata), job_labels(job.metadata)),
        "type": "Opaque",
        "immutable": True,
    }


def network_policy(job: DeepSeekJob, ray: Ray) -> dict[str, Any] | None:
    """Manifest of the policy that keeps strangers from the ports of Ray; None: it is not wanted.

    A pod that any policy selects takes only what a policy lets in. So this one has to name what it leaves alone: all other
    ports, for everybody.
    """
    if not ray.network_policy:
        return None
    own = {"podSelector": {"matchLabels": ray_labels(job.metadata)}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": POLICY,
        "metadata": child_metadata(job, ray_name(job.metadata.name), job_labels(job.metadata)),
        "spec": {
            **own,
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [own]}, {"ports": _other_ports()}],
        },
    }


def _other_ports() -> list[dict[str, Any]]:
    """All that are not Ray's."""
    tcp = [
        (1, RayPorts.GCS - 1),
        (RayPorts.AGENTS[1] + 1, RayPorts.WORKERS[0] - 1),
        (RayPorts.WORKERS[1] + 1, _LAST_PORT),
    ]
    ranges = [("TCP", first, last) for first, last in tcp]
    ranges += [(protocol, 1, _LAST_PORT) for protocol in ("UDP", "SCTP")]
    return [{"protocol": protocol, "port": first, "endPort": last} for protocol, first, last in ranges]


def _listens(*, period_s: int, failures: int) -> dict[str, Any]:
    """A probe that the kubelet makes itself, by a connection."""
    return {"tcpSocket": {"port": "gcs"}, "periodSeconds": period_s, "timeoutSeconds": 3, "failureThreshold": failures}


def _annotations(job: DeepSeekJob) -> dict[str, str]:
    """The head is in no PodGroup: training may begin without it. Volcano wants to know its queue nevertheless."""
    queue = job.spec.scheduling.queue
    return {VOLCANO_QUEUE: queue} if queue and gang_scheduler(job) is VOLCANO else {}
