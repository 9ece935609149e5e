"""Wrong DeepSeekJobs, each one change away from a right one, and what the API server must say about it.

A case names the field and, where Kubernetes' own message for a schema error doesn't carry one, the remedy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Manifest = dict[str, Any]
GONE = object()
"""As a value in a change: the field is removed."""


@dataclass(frozen=True)
class Bad:
    """One wrong manifest: a valid base, changes by dotted path, and parts of the message."""

    id: str
    changes: dict[str, Any]
    says: tuple[str, ...]
    base: Callable[[], Manifest]

    def manifest(self) -> Manifest:
        return changed(self.base(), self.changes)


def trainer_job() -> Manifest:
    """A valid job of the built-in trainer, with every optional section present."""
    return {
        "apiVersion": "training.deepseekjob.dev/v1alpha1",
        "kind": "DeepSeekJob",
        "metadata": {"name": "right", "namespace": "default"},
        "spec": {
            "workers": {
                "replicas": 2,
                "procPerNode": 1,
                "image": "example.com/trainer:1",
                "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
                "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
                "volumes": [
                    {"name": "corpus", "mountPath": "/data", "persistentVolumeClaim": {"claimName": "corpus"}},
                    {"name": "scratch", "mountPath": "/scratch", "emptyDir": {"sizeLimit": "1Gi"}},
                ],
            },
            "backend": "gloo",
            "trainer": {
                "model": {"preset": "tiny", "numExperts": 8, "expertsPerToken": 2},
                "training": {"steps": 100},
                "optimizer": {"warmupSteps": 10},
            },
            "data": {"corpus": "chitchat"},
            "checkpoint": {"volume": {"claimName": "checkpoints"}, "interval": {"steps": 10}, "keep": 2},
            "recovery": {"budgets": {"application": 3}},
        },
    }


def script_job() -> Manifest:
    """A valid job with a script of the user's."""
    job = trainer_job()
    del job["spec"]["trainer"], job["spec"]["data"]
    job["spec"]["entrypoint"] = {"script": "/workspace/train.py", "args": ["--steps", "10"]}
    return job


def changed(manifest: Manifest, changes: dict[str, Any]) -> Manifest:
    """A copy with the changes made; a number in a path is an index."""
    out = copy.deepcopy(manifest)
    for path, value in changes.items():
        *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
        node: Any = out
        for part in parents:
            node = node[part] if isinstance(part, int) else node.setdefault(part, {})
        if value is GONE:
            del node[last]
        else:
            node[last] = value
    return out


def _trainer(id_: str, changes: dict[str, Any], *says: str) -> Bad:
    return Bad(id_, {f"spec/{path}": value for path, value in changes.items()}, says, trainer_job)


def _script(id_: str, changes: dict[str, Any], *says: str) -> Bad:
    return Bad(id_, {f"spec/{path}": value for path, value in changes.items()}, says, script_job)


_VOLUME = "workers/volumes/0"
_HOST_PATH = {"persistentVolumeClaim": GONE, "hostPath": {"path": "/", "type": "Directory"}}

BAD = [
    # Fields that are not there, or are missing.
    _trainer("unknown-field", {"workers/replica": 2}, 'unknown field "spec.workers.replica"'),
    _trainer("unknown-section", {"worker": {"image": "x"}}, 'unknown field "spec.worker"'),
    _trainer("misspelt-trainer-field", {"trainer/training/step": 5}, 'unknown field "spec.trainer.training.step"'),
    _trainer("pod-template", {"workers/template": {"hostNetwork": True}}, 'unknown field "spec.workers.template"'),
    _trainer("no-image", {"workers/image": GONE}, "spec.workers.image", "Required value"),
    _trainer("no-workers", {"workers": GONE}, "spec.workers", "Required value"),
    _trainer("no-steps", {"trainer/training": {}}, "spec.trainer.training.steps", "Required value"),
    _trainer("checkpoint-without-volume", {"checkpoint/volume": GONE}, "spec.checkpoint.volume", "Required value"),
    # Values out of bounds.
    _trainer("negative-replicas", {"workers/replicas": -1}, "spec.workers.replicas", "greater than or equal to 1"),
    _trainer("too-many-replicas", {"workers/replicas": 5000}, "spec.workers.replicas", "less than or equal to 4096"),
    _trainer("no-processes", {"workers/procPerNode": 0}, "spec.workers.procPerNode", "greater than or equal to 1"),
    _trainer("replicas-as-text", {"workers/replicas": "two"}, "spec.workers.replicas", "must be of type integer"),
    _trainer("image-with-space", {"workers/image": "a b"}, "spec.workers.image", "should match"),
    _trainer(
        "bad-quantity",
        {"workers/resources/requests/memory": "4 GB"},
        "spec.workers.resources.requests[memory]",
        "500m, 4, 16Gi",
    ),
    _trainer("bad-shared-memory", {"workers/sharedMemory": "lots"}, "spec.workers.sharedMemory", "500m, 4, 16Gi"),
    _trainer("bad-backend", {"backend": "mpi"}, "spec.backend", '"auto", "nccl", "gloo"'),
    _trainer("bad-preset", {"trainer/model/preset": "huge"}, "spec.trainer.model.preset", '"tiny", "small"'),
    _trainer("bad-corpus", {"data/corpus": "wikipedia"}, "spec.data.corpus", '"chitchat"'),
    _trainer("no-steps-at-all", {"trainer/training/steps": 0}, "spec.trainer.training.steps", "equal to 1"),
    _trainer("learning-rate-0", {"trainer/optimizer/learningRate": 0}, "spec.trainer.optimizer.learningRate"),
    _trainer("interval-0", {"checkpoint/interval/steps": 0}, "spec.checkpoint.interval.steps", "equal to 1"),
    _trainer("keep-0", {"checkpoint/keep": 0}, "spec.checkpoint.keep", "greater than or equal to 1"),
    _trainer(
        "restarts-below-0", {"recovery/budgets/application": -1}, "spec.recovery.budgets.application", "equal to 0"
    ),
    _trainer("bad-claim-name", {"checkpoint/volume/claimName": "Check Points"}, "spec.checkpoint.volume.claimName"),
    # One of several.
    _trainer(
        "trainer-and-entrypoint",
        {"entrypoint": {"script": "/x.py"}},
        "spec",
        "set exactly one of trainer (the built-in trainer) and entrypoint",
    ),
    _trainer("neither", {"trainer": GONE, "data": GONE}, "spec", "set exactly one of trainer"),
    _script("script-and-module", {"entrypoint/module": "a.b"}, "spec.entrypoint", "exactly one of script and module"),
    _script("no-script-no-module", {"entrypoint/script": GONE}, "spec.entrypoint", "exactly one of script and module"),
    _script("data-with-entrypoint", {"data": {"corpus": "gcide"}}, "spec.data", "read your data yourself and remove"),
    _trainer("trainer-without-data", {"data": GONE}, "spec.trainer", "set data.corpus to a named corpus or data.path"),
    _trainer("two-data-sources", {"data/path": "/data"}, "spec.data", "set exactly one of corpus"),
    _trainer("no-data-source", {"data": {"textField": "t"}}, "spec.data", "set exactly one of corpus"),
    # Environment.
    _trainer(
        "value-and-valueFrom",
        {"workers/env/0/valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        "spec.workers.env[0]",
        "set exactly one of value and valueFrom",
    ),
    _trainer(
        "two-value-sources",
        {
            "workers/env/0": {
                "name": "TOKEN",
                "valueFrom": {
                    "secretKeyRef": {"name": "s", "key": "k"},
                    "configMapKeyRef": {"name": "c", "key": "k"},
                },
            }
        },
        "spec.workers.env[0].valueFrom",
        "set exactly one of configMapKeyRef and secretKeyRef",
    ),
    _trainer(
        "reserved-env", {"workers/env/0/name": "DEEPSEEKJOB_NAME"}, "spec.workers.env[0].name", "choose another name"
    ),
    _trainer(
        "env-twice",
        {"workers/env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]},
        "spec.workers.env[1]",
        "Duplicate value",
    ),
    # Volumes.
    _trainer(
        "host-path",
        {f"{_VOLUME}/{key}": value for key, value in _HOST_PATH.items()},
        "spec.workers.volumes[0].hostPath",
        "use persistentVolumeClaim, configMap, secret or emptyDir",
    ),
    _trainer("nfs-volume", {f"{_VOLUME}/nfs": {"server": "s"}}, 'unknown field "spec.workers.volumes[0].nfs"'),
    _trainer("two-sources", {f"{_VOLUME}/emptyDir": {}}, "spec.workers.volumes[0]", "set exactly one of persistentV"),
    _trainer(
        "no-source", {f"{_VOLUME}/persistentVolumeClaim": GONE}, "spec.workers.volumes[0]", "set exactly one of persis"
    ),
    _trainer("relative-mount", {f"{_VOLUME}/mountPath": "data"}, "spec.workers.volumes[0].mountPath", "begin with /"),
    _trainer(
        "mount-over-config",
        {f"{_VOLUME}/mountPath": "/etc/deepseekjob/x"},
        "spec.workers.volumes[0].mountPath",
        "mount elsewhere",
    ),
    _trainer("mount-over-checkpoints", {f"{_VOLUME}/mountPath": "/checkpoints"}, "volumes[0].mountPath", "elsewhere"),
    _trainer("mount-over-run", {f"{_VOLUME}/mountPath": "/run/deepseekjob/"}, "volumes[0].mountPath", "elsewhere"),
    _trainer("mount-over-etc", {f"{_VOLUME}/mountPath": "/etc"}, "volumes[0].mountPath", "elsewhere"),
    _trainer("mount-over-tmp", {f"{_VOLUME}/mountPath": "/tmp"}, "volumes[0].mountPath", "elsewhere"),
    _trainer("mount-by-dots", {f"{_VOLUME}/mountPath": "/x/../tmp"}, "volumes[0].mountPath", "write the path out"),
    _trainer("mount-twice", {"workers/volumes/1/mountPath": "/data"}, "spec.workers.volumes", "give each volume its"),
    _trainer("sub-path-up", {f"{_VOLUME}/subPath": "a/../.."}, "spec.workers.volumes[0].subPath", "write the path"),
    _trainer("volume-of-ours", {f"{_VOLUME}/name": "deepseekjob-run"}, "volumes[0].name", "choose another name"),
    _trainer("checkpoint-path-up", {"checkpoint/volume/subPath": "../other"}, "checkpoint.volume.subPath", "write the"),
    # Fields that have to agree.
    _trainer(
        "request-above-limit",
        {"workers/resources/requests/memory": "3Gi"},
        "spec.workers.resources.requests",
        "raise the limit or lower the request",
    ),
    _trainer(
        "gpu-request-alone",
        {"workers/resources/requests": {"nvidia.com/gpu": 1}},
        "spec.workers.resources.requests",
        "set only limits",
    ),
    _trainer(
        "warmup-above-steps",
        {"trainer/optimizer/warmupSteps": 101},
        "spec.trainer.optimizer.warmupSteps",
        "lower warmupSteps or raise steps",
    ),
    _trainer(
        "more-experts-per-token-than-experts",
        {"trainer/model/expertsPerToken": 9},
        "spec.trainer.model.expertsPerToken",
        "lower expertsPerToken or raise numExperts",
    ),
    Bad("long-name", {"metadata/name": "j" * 46}, ("metadata.name must be at most 45",), trainer_job),
    Bad("dotted-name", {"metadata/name": "a.b"}, ("metadata.name must be at most 45",), trainer_job),
    Bad("digit-first", {"metadata/name": "1st"}, ("begin with a letter", "choose such a name"), trainer_job),
]

_GO_ON = "delete the job and apply it anew"
IMMUTABLE = [
    _trainer("workers", {"workers/replicas": 3}, "spec.workers", _GO_ON),
    _trainer("image", {"workers/image": "example.com/trainer:2"}, "spec.workers", _GO_ON),
    _trainer("backend", {"backend": "auto"}, "spec.backend", _GO_ON),
    _trainer("trainer", {"trainer/training/steps": 200}, "spec.trainer", _GO_ON),
    _trainer("data", {"data/corpus": "gcide"}, "spec.data", _GO_ON),
    _trainer("interval", {"checkpoint/interval/steps": 20}, "spec.checkpoint", _GO_ON),
    _trainer("checkpoint-removed", {"checkpoint": GONE}, "spec.checkpoint", _GO_ON),
    _trainer(
        "trainer-to-entrypoint", {"trainer": GONE, "data": GONE, "entrypoint": {"module": "m"}}, "spec.trainer", _GO_ON
    ),
]
"""Changes of a job that exists."""
