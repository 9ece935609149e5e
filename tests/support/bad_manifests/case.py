"""What a wrong DeepSeekJob is: a right one, changes to it, and parts of what must be said about them."""

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


def trainer(id_: str, changes: dict[str, Any], *says: str) -> Bad:
    """A wrong job of the built-in trainer; paths are below spec."""
    return Bad(id_, {f"spec/{path}": value for path, value in changes.items()}, says, trainer_job)


def script(id_: str, changes: dict[str, Any], *says: str) -> Bad:
    """A wrong job of a script; paths are below spec."""
    return Bad(id_, {f"spec/{path}": value for path, value in changes.items()}, says, script_job)


def at(field: str, id_: str, value: object, *says: str) -> Bad:
    """A wrong value of one field; the message must name the field, as Kubernetes writes paths."""
    dotted = ""
    for part in field.split("/"):
        dotted += f"[{part}]" if part.isdigit() else f".{part}"
    return trainer(id_, {field: value}, f"spec{dotted}", *says)
