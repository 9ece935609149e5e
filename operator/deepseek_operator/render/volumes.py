"""Volumes and mounts of a worker pod: the operator's own, the checkpoints', and the user's.

Rule: the root file system is read-only; what may be written is named here. The API refuses user volumes that
carry our names or cover our paths, so the two never meet.
"""

from __future__ import annotations

from typing import Any

from deepseek_operator.api.containers import CHECKPOINTS, HelperContainer, Mount
from deepseek_operator.api.names import ANNOTATION_MEMBERSHIP, ANNOTATION_RUN_CONFIG, Paths
from deepseek_operator.api.v1alpha1 import DeepSeekJob, Volume
from deepseek_operator.api.volumes import SOURCES
from deepseek_operator.render.claims import other_claim, own_claim
from deepseek_operator.render.identity import token_name

Mounted = tuple[dict[str, Any], dict[str, Any]]
"""A pod's volume, and the container's mount of it."""

TMP = "/tmp"  # noqa: S108 - a volume of the pod's own, and HOME
SHM = "/dev/shm"  # noqa: S108
HEAD_SHARED_MEMORY = "256Mi"
"""Of the Ray head, in which no task runs."""
TMP_VOLUME = "deepseekjob-tmp"
CHECKPOINTS_VOLUME = "deepseekjob-checkpoints"
RESUME_FROM_VOLUME = "deepseekjob-resume-from"


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
    """The job's own claim, and the one that it begins with: in every pod alike, whether it will be read or not."""
    own, other = own_claim(job), other_claim(job)
    mounted = [claim_mounted(CHECKPOINTS_VOLUME, own, Paths.CHECKPOINTS)] if own else []
    return [*mounted, claim_mounted(RESUME_FROM_VOLUME, other, Paths.RESUME_FROM, read_only=True)] if other else mounted


def claim_mounted(name: str, claim: str, path: str, *, read_only: bool = False) -> Mounted:
    """A claim and its mount. It is the mount that is read-only: a driver may refuse a node that has the volume for writing
    already a second, read-only volume."""
    mount: dict[str, Any] = {"name": name, "mountPath": path}
    return (
        {"name": name, "persistentVolumeClaim": {"claimName": claim}},
        mount | ({"readOnly": True} if read_only else {}),
    )


def _memory(job: DeepSeekJob) -> list[Mounted]:
    """Outlasts the container, and goes with the pod."""
    if job.spec.checkpoint is None or job.spec.checkpoint.memory is None:
        return []
    size = job.spec.checkpoint.memory.size
    return [_scratch("deepseekjob-memory", Paths.MEMORY, {"medium": "Memory", "sizeLimit": size})]


def _shared_memory(job: DeepSeekJob) -> list[Mounted]:
    size = job.spec.workers.shared_memory
    if size is None:
        return []
    return [_scratch("deepseekjob-shm", SHM, {"medium": "Memory", "sizeLimit": size})]


def _ray_token(job: DeepSeekJob) -> list[Mounted]:
    return [ray_token(job)] if job.spec.ray is not None else []


def ray_token(job: DeepSeekJob) -> Mounted:
    """The token of the job's Ray cluster. A pod starts without it, too: Ray is nothing that training waits for."""
    name = "deepseekjob-ray-token"
    secret = {"secretName": token_name(job.metadata), "optional": True, "defaultMode": 0o440}
    return (
        {"name": name, "secret": secret},
        {"name": name, "mountPath": Paths.RAY_TOKEN.rpartition("/")[0], "readOnly": True},
    )


def head_mounted(job: DeepSeekJob) -> list[Mounted]:
    """What the pod of the Ray head has, in the same form."""
    memory = {"medium": "Memory", "sizeLimit": HEAD_SHARED_MEMORY}
    return [_scratch(TMP_VOLUME, TMP), _scratch("deepseekjob-shm", SHM, memory), ray_token(job)]


def _source(volume: Volume) -> dict[str, Any]:
    if volume.secret is not None:
        return {"secret": {"secretName": volume.secret.name}}
    source = volume.model_dump(by_alias=True, exclude_none=True, include=set(SOURCES))
    if "emptyDir" in source and not source["emptyDir"].get("medium"):
        source["emptyDir"].pop("medium", None)
    return source


def _user_volume(volume: Volume) -> Mounted:
    mount: dict[str, Any] = {"name": volume.name, "mountPath": volume.mount_path}
    return {"name": volume.name, **_source(volume)}, mount | _how(volume)


def _how(mount: Volume | Mount) -> dict[str, Any]:
    how = {"subPath": mount.sub_path, "readOnly": mount.read_only}
    return {key: value for key, value in how.items() if value}


def _mounted(job: DeepSeekJob) -> list[Mounted]:
    """Every volume of the pod with the worker's mount of it, in a fixed order."""
    return [
        _config(job),
        _scratch("deepseekjob-run", Paths.RUN_DIR),
        _scratch(TMP_VOLUME, TMP),
        *_checkpoints(job),
        *_memory(job),
        *_shared_memory(job),
        *_ray_token(job),
        *[_user_volume(volume) for volume in job.spec.workers.volumes],
    ]


def pod_volumes(job: DeepSeekJob) -> list[dict[str, Any]]:
    """The volumes of a worker pod."""
    return [volume for volume, _ in _mounted(job)]


def worker_mounts(job: DeepSeekJob) -> list[dict[str, Any]]:
    """Where the worker sees them."""
    return [mount for _, mount in _mounted(job)]


def helper_mounts(helper: HelperContainer) -> list[dict[str, Any]]:
    """What an init container or a sidecar sees: what it asks for, and the pod's /tmp unless it has one of its own."""
    wanted = [
        {"name": CHECKPOINTS_VOLUME if mount.name == CHECKPOINTS else mount.name, "mountPath": mount.mount_path}
        | _how(mount)
        for mount in helper.mounts
    ]
    own_tmp = any(mount.mount_path.rstrip("/") == TMP for mount in helper.mounts)
    return wanted if own_tmp else [{"name": TMP_VOLUME, "mountPath": TMP}, *wanted]
