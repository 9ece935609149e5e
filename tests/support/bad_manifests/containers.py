"""Environment, and the containers beside the worker."""

from __future__ import annotations

from typing import Any

from support.bad_manifests.case import GONE, Bad, at, trainer

ENV = "workers/env/0"


def _helper(id_: str, fields: dict[str, Any], *says: str, of: str = "initContainers", path: str = "") -> Bad:
    helper = {"name": "fetch", "image": "example.com/fetch:1", **fields}
    return trainer(id_, {f"workers/{of}": [helper]}, f"spec.workers.{of}[0]{path}", *says)


def _mount(id_: str, mount: dict[str, Any], *says: str, path: str = "") -> Bad:
    return _helper(id_, {"mounts": [{"name": "scratch", **mount}]}, *says, of="sidecars", path=f".mounts[0]{path}")


BAD = [
    # Variables.
    trainer(
        "value-and-valueFrom",
        {f"{ENV}/valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        "spec.workers.env[0]",
        "set exactly one of value and valueFrom",
    ),
    trainer("no-value", {ENV: {"name": "A"}}, "spec.workers.env[0]", "set exactly one of value and valueFrom"),
    trainer(
        "two-value-sources",
        {
            ENV: {
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
    trainer(
        "value-of-a-field",
        {ENV: {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}},
        'unknown field "spec.workers.env[0].valueFrom.fieldRef"',
    ),
    at(f"{ENV}/name", "reserved-env", "DEEPSEEKJOB_NAME", "choose another name"),
    at(f"{ENV}/name", "env-with-dash", "OMP-THREADS", "should match"),
    at(f"{ENV}/name", "env-digit-first", "1ST", "should match"),
    at(f"{ENV}/value", "env-number", 1, "must be of type string"),
    trainer(
        "env-twice",
        {"workers/env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]},
        "spec.workers.env[1]",
        "Duplicate value",
    ),
    *[
        trainer(
            f"env-key-{id_}",
            {ENV: {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": key}}}},
            "spec.workers.env[0].valueFrom.secretKeyRef.key",
            "should match",
        )
        for id_, key in {"slash": "a/b", "dot": ".", "dots": "..a", "space": "a b"}.items()
    ],
    trainer(
        "two-sources-of-many",
        {"workers/envFrom": [{"configMapRef": {"name": "c"}, "secretRef": {"name": "s"}}]},
        "spec.workers.envFrom[0]",
        "set exactly one of configMapRef and secretRef",
    ),
    trainer(
        "no-source-of-many",
        {"workers/envFrom": [{"prefix": "A_"}]},
        "spec.workers.envFrom[0]",
        "set exactly one of configMapRef and secretRef",
    ),
    trainer(
        "reserved-prefix",
        {"workers/envFrom": [{"prefix": "DEEPSEEKJOB_", "configMapRef": {"name": "c"}}]},
        "spec.workers.envFrom[0].prefix",
        "choose another prefix",
    ),
    trainer(
        "bad-prefix",
        {"workers/envFrom": [{"prefix": "A-", "configMapRef": {"name": "c"}}]},
        "spec.workers.envFrom[0].prefix",
        "should match",
    ),
    # Containers beside the worker.
    _helper("helper-named-worker", {"name": "worker"}, "choose another name", path=".name"),
    _helper("helper-named-ray", {"name": "ray"}, "choose another name", path=".name", of="sidecars"),
    _helper("helper-named-ours", {"name": "deepseekjob-x"}, "choose another name", path=".name"),
    _helper("helper-bad-name", {"name": "Fetch_1"}, "should match", path=".name"),
    _helper("helper-bad-image", {"image": "Fetch 1"}, "write it as ghcr.io/you/trainer:1.2", path=".image"),
    _helper("helper-bad-policy", {"imagePullPolicy": "No"}, '"Always"', path=".imagePullPolicy"),
    _helper("helper-command-as-text", {"command": "fetch"}, "must be of type array", path=".command"),
    _helper("helper-reserved-env", {"env": [{"name": "DEEPSEEKJOB_X", "value": ""}]}, "another", path=".env[0].name"),
    _helper("helper-resource", {"resources": {"limits": {"gpu": 1}}}, "correct its name", path=".resources.limits"),
    *[
        trainer(
            f"helper-{field}",
            {"workers/sidecars": [{"name": "s", "image": "s:1", field: value}]},
            f'unknown field "spec.workers.sidecars[0].{field}"',
        )
        for field, value in {
            "securityContext": {"privileged": True},
            "ports": [{"containerPort": 80, "hostPort": 80}],
            "restartPolicy": "Never",
            "volumeMounts": [],
        }.items()
    ],
    trainer("helper-without-image", {"workers/sidecars": [{"name": "s"}]}, "sidecars[0].image", "Required value"),
    trainer(
        "helper-twice",
        {"workers/initContainers": [{"name": "a", "image": "a:1"}, {"name": "a", "image": "b:1"}]},
        "spec.workers.initContainers[1]",
        "Duplicate value",
    ),
    trainer(
        "init-container-and-sidecar-of-one-name",
        {
            "workers/initContainers": [{"name": "a", "image": "a:1"}],
            "workers/sidecars": [{"name": "a", "image": "b:1"}],
        },
        "spec.workers.sidecars",
        "rename one of them",
    ),
    # Their mounts.
    _mount("helper-relative-mount", {"mountPath": "out"}, "begin with /", path=".mountPath"),
    _mount("helper-mount-by-dots", {"mountPath": "/a/../b"}, "write the path out", path=".mountPath"),
    _mount("helper-mount-root", {"mountPath": "/"}, "begin with /", path=".mountPath"),
    _mount("helper-mount-proc", {"mountPath": "/proc/sys"}, "mount elsewhere", path=".mountPath"),
    _mount("helper-mount-dev", {"mountPath": "/dev/"}, "mount elsewhere", path=".mountPath"),
    _mount("helper-sub-path-up", {"mountPath": "/a", "subPath": "../b"}, "write the path out", path=".subPath"),
    _mount(
        "helper-part-of-the-checkpoints",
        {"name": "checkpoints", "mountPath": "/a", "subPath": "b"},
        "remove subPath",
        path=".subPath",
    ),
    _helper(
        "helper-mount-twice",
        {"mounts": [{"name": "scratch", "mountPath": "/a"}, {"name": "corpus", "mountPath": "/a/"}]},
        "give each its own",
        path=".mounts",
    ),
    trainer(
        "mount-of-nothing",
        {"workers/initContainers": [{"name": "a", "image": "a:1", "mounts": [{"name": "x", "mountPath": "/x"}]}]},
        "spec.workers.initContainers",
        "name one of workers.volumes",
    ),
    trainer(
        "sidecar-mount-of-ours",
        {
            "workers/sidecars": [
                {"name": "a", "image": "a:1", "mounts": [{"name": "deepseekjob-run", "mountPath": "/x"}]}
            ]
        },
        "spec.workers.sidecars",
        "name one of workers.volumes",
    ),
    trainer(
        "checkpoints-without-checkpoint",
        {
            "checkpoint": GONE,
            "workers/sidecars": [{"name": "a", "image": "a:1", "mounts": [{"name": "checkpoints", "mountPath": "/x"}]}],
        },
        "spec.workers.sidecars",
        "if the job has a checkpoint volume",
    ),
]
