"""Changes of a DeepSeekJob that exists: what may change when. Every field of the spec is in one of three tables.

A change is made to `running`, which sets every field that a running job may have, or to the same job suspended.
"""

from __future__ import annotations

from typing import Any

from deepseek_operator.api.v1alpha1 import Spec
from deepseek_operator.api.workers import Workers
from support import full_job
from support.bad_manifests import GONE, Manifest, changed

ANEW = "delete the job and apply it anew: with the same checkpoint volume (or object store) and subPath it goes on from its last checkpoint"
SUSPEND_FIRST = "can change only while the job is suspended"

Change = dict[str, Any]
"""Values by path below spec; GONE removes the field."""


def running() -> Manifest:
    """A job with every field, which is not suspended; its mesh is one for any number of processes."""
    here = {"metadata/name": "existing", "spec/suspend": False, "spec/trainer/parallelism/replicate": GONE}
    return changed(full_job.trainer_job(), here | {"spec/trainer/parallelism/shard": GONE})


NEVER: dict[str, Change] = {
    "profile": {"profile": "cpu-pool"},
    "profile removed": {"profile": GONE},
    "trainer": {"trainer/training/steps": 2000},
    "trainer to entrypoint": {"trainer": GONE, "data": GONE, "entrypoint": {"module": "m"}},
    "data": {"data/corpus": "gcide"},
    "data.textFields": {"data/textFields": ["answer", "question"]},
    "data.separator": {"data/separator": ""},
    "data.chat": {"data/chat": {"loss": "Assistant"}},
    "data.onBadRecord": {"data/onBadRecord": "Fail"},
    "data.maxBadRecords": {"data/maxBadRecords": 8},
    "data.batching": {"data/batching/mode": "Packed"},
    "data.batching.dealing": {"data/batching": {"mode": "Packed", "dealing": "ByPace"}},
    "data.shuffle": {"data/shuffle/windowBlocks": 513},
    "data.mode": {"data": {"corpus": "chitchat", "mode": "Dynamic"}},
    "data.dynamic": {"data": {"corpus": "chitchat", "mode": "Dynamic", "dynamic": {"shardBytes": 4096}}},
    "data.allowChange": {"data/allowChange": False},
    "data to a dataset": {"data": {"dataset": {"name": "org/data", "config": "en", "split": "test", "revision": "v1"}}},
    "data to a path": {"data": {"path": "/data"}},
    "data.ray": {"data/ray/objectStore": "1Gi"},
    "data.ray removed": {"data/ray": GONE},
    "managedBy": {"managedBy": "example.com/other"},
    "managedBy removed": {"managedBy": GONE},
    "checkpoint.volume": {"checkpoint/volume/claimName": "other"},
    "checkpoint.volume to a template": {"checkpoint/volume": {"template": {"size": "1Gi"}}},
    "checkpoint.volume.subPath": {"checkpoint/volume/subPath": "runs/other"},
    "checkpoint to an object store": {
        "checkpoint/volume": GONE,
        "checkpoint/objectStore": {"url": "s3://bucket/runs"},
        "data/audit": False,
        "workers/initContainers": GONE,
        "workers/sidecars": GONE,
    },
    "checkpoint.resumeFrom": {"checkpoint/resumeFrom/step": 401},
    "checkpoint.resumeFrom removed": {"checkpoint/resumeFrom": GONE},
    "checkpoint removed": {"checkpoint": GONE, "workers/initContainers": GONE, "workers/sidecars": GONE},
}
"""Refused while the job exists, suspended or not, with the way out."""

_WORKERS: Change = {
    "procPerNode": 2,
    "image": "ghcr.io/example/trainer:1.1",
    "imagePullPolicy": "Never",
    "imagePullSecrets": [{"name": "other"}],
    "resources": {"limits": {"memory": "32Gi"}},
    "env": [{"name": "NCCL_DEBUG", "value": "WARN"}],
    "envFrom": [{"configMapRef": {"name": "other"}}],
    "nodeSelector": {"gpu": "h200"},
    "affinity": {"podAntiAffinity": full_job.NEAR},
    "tolerations": [{"operator": "Exists"}],
    "priorityClassName": "other",
    "runtimeClassName": "other",
    "serviceAccountName": "other",
    "labels": {"team": "vision"},
    "annotations": {"example.com/owner": "Bo"},
    "sharedMemory": "16Gi",
    "terminationGracePeriodSeconds": 300,
    "volumes": [*full_job.VOLUMES, {"name": "more", "mountPath": "/more", "emptyDir": {}}],
    "initContainers": [{"name": "fetch", "image": "example.com/fetch:2"}],
    "sidecars": [{"name": "uploader", "image": "example.com/uploader:2"}],
}
WHILE_SUSPENDED: dict[str, Change] = {
    **{f"workers.{field}": {f"workers/{field}": value} for field, value in _WORKERS.items()},
    **{
        f"workers.{field} removed": {f"workers/{field}": GONE}
        for field in _WORKERS
        # The helpers mount volumes, which must be there.
        if field != "volumes"
    },
    "workers.env one more": {"workers/env": [*full_job.WORKERS["env"], {"name": "MORE", "value": "1"}]},
    "backend": {"backend": "gloo"},
    "backend by default": {"backend": GONE},
    "communication": {"communication/timeoutSeconds": 301},
    "communication removed": {"communication": GONE},
    "scheduling": {"scheduling/queue": "other"},
    "scheduling removed": {"scheduling": GONE},
    "checkpoint.interval": {"checkpoint/interval/steps": 21},
    "checkpoint.interval by seconds": {"checkpoint/interval": {"seconds": 60}},
    "checkpoint.keep": {"checkpoint/keep": 6},
    "checkpoint.keepSeconds": {"checkpoint/keepSeconds": 60},
    "checkpoint.keepEverySteps": {"checkpoint/keepEverySteps": GONE},
    "checkpoint.mode": {"checkpoint/mode": "Async"},
    "checkpoint.onFailure": {"checkpoint/onFailure": "Continue"},
    "checkpoint.maxFailures": {"checkpoint/maxFailures": 5},
    "preflight": {"preflight/timeoutSeconds": 61},
    "preflight removed": {"preflight": GONE},
}
"""Accepted from a suspended job alone."""

ALWAYS: dict[str, Change] = {
    "suspend": {"suspend": True},
    "workers.replicas": {"workers/replicas": 4},
    "elastic.maxReplicas": {"elastic/maxReplicas": 16},
    "elastic and replicas": {"elastic/maxReplicas": 16, "workers/replicas": 16},
    "elastic removed": {"elastic": GONE},
    "recovery.budgets": {"recovery/budgets/application": 9},
    "recovery removed": {"recovery": GONE},
    "lifecycle.activeDeadlineSeconds": {"lifecycle/activeDeadlineSeconds": 3600},
    "lifecycle.maxUnavailable": {"lifecycle/maxUnavailable": 2},
    "lifecycle removed": {"lifecycle": GONE},
    # The order of a list that is told apart by names means nothing.
    "workers.env in another order": {"workers/env": full_job.WORKERS["env"][::-1]},
}
"""Accepted while the job runs, and while it is suspended."""

HOLES: dict[str, tuple[Change, str]] = {
    "suspend and change at once": ({"suspend": True, "workers/image": "example.com/t:2"}, "workers can change only"),
    "elastic removed and replicas changed": (
        {"elastic": GONE, "workers/replicas": 4},
        "set elastic.minReplicas and maxReplicas, or suspend it first",
    ),
    "more than elastic allows": ({"workers/replicas": 9}, "choose a number between them"),
    "elastic shrunk below the replicas": ({"elastic/maxReplicas": 2}, "choose a number between them"),
    "elastic grown above the replicas": ({"elastic/minReplicas": 4}, "choose a number between them"),
    "two things at once": ({"workers/replicas": 4, "workers/image": "example.com/t:2"}, "workers can change only"),
    "one allowed, one never": ({"recovery/prewarm": False, "profile": GONE}, "profile can't change"),
}
"""Refused from a running job: what slips through a rule that looks at one field."""


def uncovered() -> set[str]:
    """Fields of the spec and of the workers that no table changes."""
    tables = [*NEVER.values(), *WHILE_SUSPENDED.values(), *ALWAYS.values()]
    touched = {
        part for change in tables for path in change for part in (path.split("/")[0], "/".join(path.split("/")[:2]))
    }
    fields = {field.alias or name for name, field in Spec.model_fields.items()}
    workers = {f"workers/{field.alias or name}" for name, field in Workers.model_fields.items()}
    return (fields | workers) - touched
