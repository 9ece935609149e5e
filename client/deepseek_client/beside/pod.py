"""The short-lived pod that does something where a job's checkpoints are: its audit, a list of them, an export. Pure.

It is confined as a worker is and satisfies the *restricted* pod security standard: no token, nothing writable but its own
memory, the checkpoint volume mounted read-only unless something is to be changed there. It carries none of the labels by
which the operator knows its pods.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deepseek_operator.api.names import API_VERSION, KIND, LABEL_JOB_UID, Paths
from deepseek_operator.api.v1alpha1 import DeepSeekJob
from deepseek_operator.decide.effective import UnusableSnapshotError, effective
from deepseek_operator.render.claims import own_claim
from deepseek_operator.render.containers import confinement
from deepseek_operator.render.environment import environment_from
from deepseek_operator.render.pods import pod_security
from deepseek_operator.render.runconfig import checkpoint_place
from deepseek_operator.render.volumes import CHECKPOINTS_VOLUME, TMP, TMP_VOLUME, Mounted, claim_mounted

from deepseek_client.errors import ClientError

TARGET = "/target"
"""Where the pod sees another claim that it writes to."""
GRACE_S = 60
"""After which Kubernetes ends a pod that nobody waits for any more."""


@dataclass(frozen=True)
class Errand:
    """What a pod is for.

    Attributes:
        purpose: one word, for its name, its label and its container.
        module: of the trainer; it is given the job's folder, and --brief-to with the file for its last words.
        arguments: what else it is given.
        memory: limit of the pod, as a Kubernetes quantity.
        needs: what takes that memory, for people.
        timeout_s: for the pod to start and to end.
        writes: whether the checkpoint volume is changed.
        target: another claim, mounted at `TARGET` to be written to.
        scratch: whether it needs a /tmp.
    """

    purpose: str
    module: str
    arguments: tuple[str, ...] = ()
    memory: str = "1Gi"
    needs: str = ""
    timeout_s: float = 300
    writes: bool = False
    target: str | None = None
    scratch: bool = False


def whole_job(job: DeepSeekJob) -> DeepSeekJob:
    """The job with its profile's values in it."""
    try:
        return effective(job).job
    except UnusableSnapshotError as error:
        raise ClientError(f"job {job.metadata.name}: {error}") from error


def errand_pod(job: DeepSeekJob, errand: Errand, name: str) -> dict[str, Any]:
    """The manifest of a pod of that name.

    Args:
        job: as the API server has it.

    Raises:
        ClientError: the job has no volume, or its image isn't known.
    """
    job = whole_job(job)
    workers, claim = job.spec.workers, own_claim(job)
    if checkpoint_place(job) is None:
        raise ClientError(f"job {job.metadata.name}: has no place for checkpoints; set spec.checkpoint")
    if workers.image is None:
        raise ClientError(f"job {job.metadata.name}: its image is its profile's, and it has not started yet; try later")
    mounted = _mounted(errand, claim)
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
                "app.kubernetes.io/name": f"deepseekjob-{errand.purpose}",
                "app.kubernetes.io/instance": job.metadata.name,
            },
            "ownerReferences": [
                {"apiVersion": API_VERSION, "kind": KIND, "name": job.metadata.name, "uid": job.metadata.uid}
            ],
        },
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": round(errand.timeout_s) + GRACE_S,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": pod_security(),
            "affinity": _near_the_workers(job),
            **{key: value for key, value in optional.items() if value},
            "containers": [_container(job, errand, [mount for _, mount in mounted])],
            "volumes": [volume for volume, _ in mounted],
        },
    }


def _mounted(errand: Errand, claim: str | None) -> list[Mounted]:
    """The job's claim, the other one, and a /tmp, as far as they are needed. One that is the job's own is mounted once."""
    beside = errand.target if errand.target != claim else None
    found: list[Mounted] = []
    if claim is not None:
        found.append(claim_mounted(CHECKPOINTS_VOLUME, claim, Paths.CHECKPOINTS, read_only=not errand.writes))
    if beside is not None:
        found.append(claim_mounted("target", beside, TARGET))
    if errand.scratch:
        found.append(({"name": TMP_VOLUME, "emptyDir": {}}, {"name": TMP_VOLUME, "mountPath": TMP}))
    return found


def _container(job: DeepSeekJob, errand: Errand, mounts: list[dict[str, Any]]) -> dict[str, Any]:
    optional: dict[str, Any] = {"imagePullPolicy": job.spec.workers.image_pull_policy}
    store = job.spec.checkpoint.object_store if job.spec.checkpoint is not None else None
    place, more, theirs = str(checkpoint_place(job)), list(errand.arguments), []
    if store is not None:  # with the credentials of the workers
        more += ["--endpoint", store.endpoint_url] if store.endpoint_url else []
        theirs = [entry.model_dump(by_alias=True, exclude_none=True) for entry in job.spec.workers.env]
        optional["envFrom"] = environment_from(job.spec.workers.env_from)
    ours = [{"name": "OMP_NUM_THREADS", "value": "1"}, *([{"name": "HOME", "value": TMP}] if errand.scratch else [])]
    return {
        "name": errand.purpose,
        "image": job.spec.workers.image,
        **{key: value for key, value in optional.items() if value},
        "command": ["python", "-m", errand.module, place, "--brief-to", Paths.TERMINATION_LOG, *more],
        "env": [*ours, *(entry for entry in theirs if entry["name"] not in [own["name"] for own in ours])],
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": errand.memory}},
        "securityContext": confinement(),
        "terminationMessagePath": Paths.TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
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
