"""The volumes of the worker pods, and the claim for checkpoints."""

from __future__ import annotations

from typing import Any

from support.bad_manifests.case import GONE, Bad, at, trainer

VOLUME = "workers/volumes/0"
_HOST_PATH = {"persistentVolumeClaim": GONE, "hostPath": {"path": "/", "type": "Directory"}}


def _source(id_: str, kind: str, source: object, path: str, *says: str) -> Bad:
    """Another source in place of the claim."""
    changes = {f"{VOLUME}/persistentVolumeClaim": GONE, f"{VOLUME}/{kind}": source}
    return trainer(id_, changes, f"spec.workers.volumes[0].{kind}{path}", *says)


def _claim(id_: str, template: dict[str, Any], path: str, *says: str, **more: Any) -> Bad:
    """A claim that is made of a wrong template."""
    wanted = {name: value for name, value in ({"size": "1Gi"} | template).items() if value is not GONE}
    volume = {"template": wanted}
    return trainer(id_, {"checkpoint/volume": volume, **more}, f"spec.checkpoint.volume.template{path}", *says)


_ALONE: dict[str, Any] = {"accessModes": ["ReadWriteOncePod"]}

BAD = [
    # The claim for checkpoints.
    trainer(
        "claim-and-template",
        {"checkpoint/volume/template": {"size": "1Gi"}},
        "spec.checkpoint.volume",
        "set exactly one of claimName (a claim that is there) and template",
    ),
    _claim("claim-without-size", {"size": GONE}, ".size", "Required value"),
    _claim("claim-of-nothing", {"size": "0"}, ".size", "write it with its unit: 500Gi"),
    _claim("claim-without-unit", {"size": 500}, ".size", "write it with its unit: 500Gi"),
    _claim("claim-of-no-quantity", {"size": "big"}, ".size", "500m, 4, 16Gi"),
    _claim("claim-without-access-mode", {"accessModes": []}, ".accessModes", "at least 1 items"),
    _claim("claim-that-is-read-only", {"accessModes": ["ReadOnlyMany"]}, ".accessModes[0]", '"ReadWriteMany"'),
    _claim(
        "claim-for-one-pod-and-more",
        {"accessModes": ["ReadWriteOncePod", "ReadWriteMany"]},
        ".accessModes",
        "goes with no other access mode",
    ),
    _claim("claim-of-a-bad-class", {"storageClassName": "Fast SSD"}, ".storageClassName", "should match"),
    _claim("claim-that-goes-when", {"onDelete": "Recycle"}, ".onDelete", '"Retain", "Delete"'),
    _claim("one-pod-for-two-workers", _ALONE, ".accessModes", "this job may have more", "or set workers.replicas to 1"),
    _claim(
        "one-pod-and-a-spare",
        _ALONE,
        ".accessModes",
        "this job may have more",
        **{"workers/replicas": 1, "scheduling": {"spares": 1}},
    ),
    _claim(
        "one-pod-that-may-become-two",
        _ALONE,
        ".accessModes",
        "this job may have more",
        **{"workers/replicas": 1, "elastic": {"maxReplicas": 2}},
    ),
    at("checkpoint/resumeFrom", "resume-from-a-bad-claim", {"claimName": "A B", "subPath": "a"}, "should match"),
    trainer(
        "host-path",
        {f"{VOLUME}/{key}": value for key, value in _HOST_PATH.items()},
        "spec.workers.volumes[0].hostPath",
        "use persistentVolumeClaim, configMap, secret, emptyDir, projected or image",
    ),
    trainer("nfs-volume", {f"{VOLUME}/nfs": {"server": "s"}}, 'unknown field "spec.workers.volumes[0].nfs"'),
    trainer("csi-volume", {f"{VOLUME}/csi": {"driver": "d"}}, 'unknown field "spec.workers.volumes[0].csi"'),
    trainer("two-sources", {f"{VOLUME}/emptyDir": {}}, "spec.workers.volumes[0]", "set exactly one of persistentV"),
    trainer("no-source", {f"{VOLUME}/persistentVolumeClaim": GONE}, "workers.volumes[0]", "set exactly one of persis"),
    trainer("volume-twice", {"workers/volumes/1/name": "corpus"}, "spec.workers.volumes[1]", "Duplicate value"),
    _source("bad-claim", "persistentVolumeClaim", {"claimName": "A B"}, ".claimName", "should match"),
    _source("config-map-without-name", "configMap", {}, ".name", "Required value"),
    _source("bad-medium", "emptyDir", {"medium": "HugePages"}, ".medium", '"Memory"'),
    _source("bad-size", "emptyDir", {"sizeLimit": "big"}, ".sizeLimit", "500m, 4, 16Gi"),
    _source("nothing-projected", "projected", {"sources": []}, ".sources", "at least 1 items"),
    _source(
        "two-projected-as-one",
        "projected",
        {"sources": [{"configMap": {"name": "c"}, "secret": {"name": "s"}}]},
        ".sources[0]",
        "set exactly one of configMap and secret",
    ),
    trainer(
        "projected-token",
        {
            f"{VOLUME}/persistentVolumeClaim": GONE,
            f"{VOLUME}/projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]},
        },
        'unknown field "spec.workers.volumes[0].projected.sources[0].serviceAccountToken"',
    ),
    _source("image-without-reference", "image", {}, ".reference", "Required value"),
    _source("bad-image-reference", "image", {"reference": "A b"}, ".reference", "write it as ghcr.io/you/trainer:1.2"),
    # Where they are mounted.
    at(f"{VOLUME}/mountPath", "relative-mount", "data", "begin with /"),
    at(f"{VOLUME}/mountPath", "mount-with-colon", "/a:b", "have no :"),
    at(f"{VOLUME}/mountPath", "mount-by-dots", "/x/../tmp", "write the path out"),
    *[
        at(f"{VOLUME}/mountPath", f"mount-over-{id_}", path, "mount elsewhere")
        for id_, path in {
            "config": "/etc/deepseekjob/x",
            "checkpoints": "/checkpoints",
            "another-job's-checkpoints": "/resume-from/x",
            "run": "/run/deepseekjob/",
            "etc": "/etc",
            "tmp": "/tmp",
            "shm": "/dev/shm",
            "proc": "/proc/1",
        }.items()
    ],
    trainer("mount-twice", {"workers/volumes/1/mountPath": "/data"}, "spec.workers.volumes", "give each volume its"),
    trainer("mount-twice-slash", {"workers/volumes/1/mountPath": "/data/"}, "spec.workers.volumes", "give each volume"),
    at(f"{VOLUME}/subPath", "sub-path-up", "a/../..", "write the path"),
    at(f"{VOLUME}/subPath", "sub-path-absolute", "/a", "should match"),
    at(f"{VOLUME}/name", "volume-of-ours", "deepseekjob-run", "choose another name"),
    at(f"{VOLUME}/name", "volume-named-checkpoints", "checkpoints", "choose another name"),
    at(f"{VOLUME}/name", "volume-with-dot", "a.b", "should match"),
]
