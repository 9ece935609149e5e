"""Volumes and mounts of a worker pod: the operator's own, the checkpoints', and the user's.

Rule: the root file system is read-only; what may be written is named here. The API refuses user volumes that
carry our names or cover our paths, so the two never meet.
"""

from __future__ import annotations

from typing import Any

from deepseek_operator.api.names import ANNOTATION_MEMBERSHIP, ANNOTATION_RUN_CONFIG, Paths
from deepseek_operator.api.v1alpha1 import DeepSeekJob, Volume

Mounted = tuple[dict[str, Any], dict[str, Any]]
"""A pod's volume, and the container's mount of it."""

TMP = "/tmp"  # noqa: S108 - a volume of the pod's own, and HOME


def _annotation_file(annotation: str, path: str) -> dict[str, Any]:
    file_name = path.removeprefix(f"{Paths.CONFIG_DIR}/")
    return {"path": file_name, "fieldRef": {"fieldPath": f"metadata.annotations['{annotation}']"}}


def _config(job: DeepSeekJob) -> Mounted:
    """The annotations as files. They follow the annotation while the pod runs: no subPath here, it would not."""
    files = [_annotation_file(ANNOTATION_MEMBERSHIP, Paths.MEMBERSHIP_FILE)]
    if job.spec.trainer is not None:
        files.append(_annotation_file(ANNOTATION_RUN_CONFIG, Paths.RUN_CONFIG_FILE))
    name = "deepseekjob-config"
    return (
        {"name": name, "downwardAPI": {"items": files}},
        {"name": name, "mountPath": Paths.CONFIG_DIR, "readOnly": True},
    )


def _scratch(name: str, path: str, empty_dir: dict[str, Any] | None = None) -> Mounted:
    return {"name": name, "emptyDir": empty_dir or {}}, {"name": name, "mountPath": path}


def _checkpoints(job: DeepSeekJob) -> list[Mounted]:
    if job.spec.checkpoint is None:
        return []
    volume = job.spec.checkpoint.volume
    name = "deepseekjob-checkpoints"
    return [
        (
            {"name": name, "persistentVolumeClaim": {"claimName": volume.claim_name}},
            {"name": name, "mountPath": Paths.CHECKPOINTS},
        )
    ]


def _shared_memory(job: DeepSeekJob) -> list[Mounted]:
    size = job.spec.workers.shared_memory
    if size is None:
        return []
    return [_scratch("deepseekjob-shm", "/dev/shm", {"medium": "Memory", "sizeLimit": size})]  # noqa: S108


def _source(volume: Volume) -> dict[str, Any]:
    if volume.persistent_volume_claim is not None:
        return {"persistentVolumeClaim": {"claimName": volume.persistent_volume_claim.claim_name}}
    if volume.config_map is not None:
        return {"configMap": {"name": volume.config_map.name}}
    if volume.secret is not None:
        return {"secret": {"secretName": volume.secret.name}}
    empty_dir = volume.empty_dir.model_dump(by_alias=True, exclude_none=True) if volume.empty_dir else {}
    return {"emptyDir": {key: value for key, value in empty_dir.items() if value != ""}}


def _user_volume(volume: Volume) -> Mounted:
    mount: dict[str, Any] = {"name": volume.name, "mountPath": volume.mount_path}
    if volume.sub_path:
        mount["subPath"] = volume.sub_path
    if volume.read_only:
        mount["readOnly"] = True
    return {"name": volume.name, **_source(volume)}, mount


def mounted_volumes(job: DeepSeekJob) -> list[Mounted]:
    """Every volume of the pod with its mount, in a fixed order."""
    return [
        _config(job),
        _scratch("deepseekjob-run", Paths.RUN_DIR),
        _scratch("deepseekjob-tmp", TMP),
        *_checkpoints(job),
        *_shared_memory(job),
        *[_user_volume(volume) for volume in job.spec.workers.volumes],
    ]
