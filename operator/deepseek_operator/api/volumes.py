"""The volumes of the worker pods: of an allow-list of kinds, none of which reaches into a node.

Rule: names and paths that the operator uses are refused, so that the user's volumes and ours never meet.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from deepseek_operator.api.containers import CHECKPOINTS, ObjectRef
from deepseek_operator.api.fields import (
    DnsLabel,
    DnsName,
    Image,
    Model,
    MountPath,
    Quantity,
    Rule,
    SubPath,
    exactly_one,
    path_rules,
)
from deepseek_operator.api.names import Paths

RESERVED_MOUNTS = (
    *(Paths.CHECKPOINTS, Paths.RESUME_FROM, Paths.CONFIG_DIR, Paths.RUN_DIR, Paths.RAY_DIR),
    *("/tmp", "/dev", "/proc", "/sys"),  # noqa: S108
)
"""Folders of the operator's own volumes, and the kernel's; a user's volume may not cover or enter them."""
RESERVED_PARENTS = ("/etc", "/run", "/var", "/var/run")
"""Folders that contain reserved ones: a volume may be mounted inside, not over them."""
RESERVED_VOLUME_PREFIX = "deepseekjob-"


SOURCES = ("persistent_volume_claim", "config_map", "secret", "empty_dir", "projected", "image")
_one_source = exactly_one(*SOURCES)


def _cel_list(paths: tuple[str, ...]) -> str:
    return "[" + ", ".join(f"'{path}'" for path in paths) + "]"


def _outside_of_reserved(volume: Volume) -> bool:
    path = volume.mount_path.rstrip("/")
    inside = path.startswith(tuple(f"{reserved}/" for reserved in RESERVED_MOUNTS))
    return path not in RESERVED_MOUNTS + RESERVED_PARENTS and not inside


class ClaimRef(Model):
    """A PersistentVolumeClaim of the job's namespace."""

    claim_name: DnsName = Field(description="Name of the claim.")


class EmptyDir(Model):
    """Scratch space that lives as long as the pod."""

    medium: Literal["", "Memory"] = Field("", description="Memory for a tmpfs.")
    size_limit: Quantity | None = Field(None, description="Largest size, for example 10Gi.")


class ProjectedSource(Model):
    """One ConfigMap or Secret of a projected volume. API tokens are left out: training pods carry none."""

    rules: ClassVar = (
        Rule(
            "has(self.configMap) != has(self.secret)",
            "set exactly one of configMap and secret",
            holds=exactly_one("config_map", "secret"),
        ),
    )
    config_map: ObjectRef | None = Field(None, description="A ConfigMap of the job's namespace.")
    secret: ObjectRef | None = Field(None, description="A Secret of the job's namespace.")


class Projected(Model):
    """Several ConfigMaps and Secrets in one folder."""

    sources: Annotated[list[ProjectedSource], Field(min_length=1, max_length=16)] = Field(
        description="What is put together; names of files must differ."
    )


class ImageSource(Model):
    """A container image whose files are mounted read-only."""

    reference: Image = Field(description="The image, for example ghcr.io/you/tokenizer:1.")
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        "IfNotPresent", description="When the image is pulled."
    )


class Volume(Model):
    """A volume and where it is mounted. Only kinds that cannot reach into the node are allowed."""

    rules: ClassVar = (
        Rule(
            "!has(self.hostPath)",
            "hostPath volumes reach into the node and are not allowed; "
            "use persistentVolumeClaim, configMap, secret, emptyDir, projected or image",
            ".hostPath",
            holds=lambda volume: volume.host_path is None,
        ),
        Rule(
            "has(self.hostPath) || [has(self.persistentVolumeClaim), has(self.configMap), has(self.secret), "
            "has(self.emptyDir), has(self.projected), has(self.image)].filter(x, x).size() == 1",
            "set exactly one of persistentVolumeClaim, configMap, secret, emptyDir, projected and image",
            holds=lambda volume: volume.host_path is not None or _one_source(volume),
        ),
        Rule(
            f"!self.name.startsWith('{RESERVED_VOLUME_PREFIX}') && self.name != '{CHECKPOINTS}'",
            f"{CHECKPOINTS}, and names that start with {RESERVED_VOLUME_PREFIX}, belong to the operator; "
            "choose another name",
            ".name",
            holds=lambda volume: not volume.name.startswith(RESERVED_VOLUME_PREFIX) and volume.name != CHECKPOINTS,
        ),
        Rule(
            f"!{_cel_list(RESERVED_MOUNTS + RESERVED_PARENTS)}.exists(p, self.mountPath == p || "
            f"self.mountPath == p + '/') && !{_cel_list(RESERVED_MOUNTS)}.exists(p, "
            "self.mountPath.startsWith(p + '/'))",
            f"mountPath is reserved: {', '.join(RESERVED_MOUNTS)} and what is in them, and "
            f"{', '.join(RESERVED_PARENTS)} themselves, belong to the operator and the system; "
            "mount elsewhere, for example under /data or /mnt (for a larger /dev/shm set workers.sharedMemory)",
            ".mountPath",
            holds=_outside_of_reserved,
        ),
        *path_rules("mountPath", "subPath"),
    )
    name: DnsLabel = Field(description="Name of the volume, unique among the workers' volumes.")
    mount_path: MountPath = Field(
        description="Where the container sees it; absolute, outside of /checkpoints, /resume-from, /etc/deepseekjob, "
        "/run/deepseekjob, /var/run/deepseekjob, /tmp, /dev, /proc and /sys."
    )
    sub_path: SubPath | None = Field(None, description="Folder of the volume that is mounted instead of its root.")
    read_only: bool = Field(False, description="Mount without write access.")
    persistent_volume_claim: ClaimRef | None = Field(None, description="A claim of the job's namespace.")
    config_map: ObjectRef | None = Field(None, description="A ConfigMap of the job's namespace.")
    secret: ObjectRef | None = Field(None, description="A Secret of the job's namespace.")
    empty_dir: EmptyDir | None = Field(None, description="Scratch space of the pod.")
    projected: Projected | None = Field(None, description="Several ConfigMaps and Secrets in one folder.")
    image: ImageSource | None = Field(
        None,
        description="The files of a container image, read-only: a tokenizer, a corpus, a model. Kubernetes 1.33 or later; "
        "before 1.35 its feature gate ImageVolume must be on, or the API server refuses the pods.",
    )
    host_path: dict[str, Any] | None = Field(
        None,
        description="Not allowed: refused with the remedy.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
