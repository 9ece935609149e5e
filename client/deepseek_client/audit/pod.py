"""The short-lived pod that asks something where a job's checkpoints are: for its audit, for a list of them. Pure.

It is confined as a worker is and satisfies the *restricted* pod security standard: no token, nothing writable but its
own memory, the checkpoint volume mounted read-only unless something is to be changed there. It carries none of the labels by which the operator knows its pods.
"""

from __future__ import annotations

from typing import Any

from deepseek_operator.api.names import API_VERSION, KIND, LABEL_JOB_UID, Paths
from deepseek_operator.api.v1alpha1 import DeepSeekJob
from deepseek_operator.decide.effective import UnusableSnapshotError, effective
from deepseek_operator.render.containers import confinement
from deepseek_operator.render.pods import pod_security
from deepseek_operator.render.runconfig import checkpoint_directory
from deepseek_operator.render.volumes import CHECKPOINTS_VOLUME

from deepseek_client.audit.answer import status_step
from deepseek_client.errors import ClientError

AUDIT = "audit"
MODULE = "deepseek_trainer.data.audit"


def audit_pod(job: DeepSeekJob, name: str, *, memory: str, deadline_s: int) -> dict[str, Any]:
    """The manifest.

    Args:
        job: as the API server has it.
        name: of the pod.
        memory: that it may take; see the trainer's tally.
        deadline_s: after which Kubernetes ends it, whoever waits for it.

    Raises:
        ClientError: the job keeps no audit, or its image isn't known.
    """
    whole = whole_job(job)
    checkpoint, data = whole.spec.checkpoint, whole.spec.data
    if checkpoint is None or data is None or not data.trainers().get("audit"):
        raise ClientError(f"job {job.metadata.name}: keeps no audit; apply it anew with data.audit: true")
    step = status_step(job)
    arguments = ["--at", str(step)] if step is not None else []
    return volume_pod(whole, name, AUDIT, [MODULE], arguments, memory=memory, deadline_s=deadline_s)


def whole_job(job: DeepSeekJob) -> DeepSeekJob:
    """The job with its profile's values in it."""
    try:
        return effective(job).job
    except UnusableSnapshotError as error:
        raise ClientError(f"job {job.metadata.name}: {error}") from error


def volume_pod(
    job: DeepSeekJob,
    name: str,
    purpose: str,
    module: list[str],
    arguments: list[str],
    *,
    memory: str,
    deadline_s: int,
    read_only: bool = True,
) -> dict[str, Any]:
    """A pod that runs a module of the trainer on the job's folder of the checkpoint volume.

    Args:
        job: whole, and with a checkpoint volume.
        purpose: one word, for its label and its container.

    Raises:
        ClientError: the job has no volume, or its image isn't known.
    """
    workers, checkpoint = job.spec.workers, job.spec.checkpoint
    if checkpoint is None:
        raise ClientError(f"job {job.metadata.name}: has no checkpoint volume; set spec.checkpoint")
    if workers.image is None:
        raise ClientError(f"job {job.metadata.name}: its image is its profile's, and it has not started yet; try later")
    optional = {
        "serviceAccountName": workers.service_account_name,
        "imagePullSecrets": [{"name": secret.name} for secret in workers.image_pull_secrets],
        "nodeSelector": dict(workers.node_selector),
        "tolerations": [entry.model_dump(by_alias=True, exclude_none=True) for entry in workers.tolerations],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": job.metadata.namespace,
            "labels": {
                "app.kubernetes.io/name": f"deepseekjob-{purpose}",
                "app.kubernetes.io/instance": job.metadata.name,
            },
            "ownerReferences": [
                {"apiVersion": API_VERSION, "kind": KIND, "name": job.metadata.name, "uid": job.metadata.uid}
            ],
        },
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": deadline_s,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": pod_security(),
            "affinity": _near_the_workers(job),
            **{key: value for key, value in optional.items() if value},
            "containers": [
                _container(job, purpose, [*module, str(checkpoint_directory(job))], arguments, memory, read_only)
            ],
            "volumes": [
                {
                    "name": CHECKPOINTS_VOLUME,
                    # Not readOnly here: a driver may then refuse a node that has the volume for writing already.
                    "persistentVolumeClaim": {"claimName": checkpoint.volume.claim_name},
                }
            ],
        },
    }


def _container(
    job: DeepSeekJob, purpose: str, module: list[str], arguments: list[str], memory: str, read_only: bool
) -> dict[str, Any]:
    optional = {"imagePullPolicy": job.spec.workers.image_pull_policy}
    mount: dict[str, Any] = {"name": CHECKPOINTS_VOLUME, "mountPath": Paths.CHECKPOINTS}
    return {
        "name": purpose,
        "image": job.spec.workers.image,
        **{key: value for key, value in optional.items() if value},
        "command": ["python", "-m", *module, "--brief-to", Paths.TERMINATION_LOG, *arguments],
        "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": memory}},
        "securityContext": confinement(),
        "terminationMessagePath": Paths.TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [mount | ({"readOnly": True} if read_only else {})],
    }


def _near_the_workers(job: DeepSeekJob) -> dict[str, Any]:
    """On a node of the job's own where that is possible: a ReadWriteOnce volume is there, and the image too."""
    term = {
        "labelSelector": {"matchLabels": {LABEL_JOB_UID: job.metadata.uid}},
        "topologyKey": "kubernetes.io/hostname",
    }
    return {
        "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}
    }
