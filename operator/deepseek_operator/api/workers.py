"""The worker pods of a DeepSeekJob: image, resources, environment, placement, volumes.

Rule: nothing here can reach into a node or into the operator's own part of the pod. There is no raw pod
template; volumes are of an allow-list; names and paths that the operator uses are refused.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from deepseek_operator.api.fields import (
    DnsLabel,
    DnsName,
    EnvName,
    Model,
    MountPath,
    Quantity,
    Rule,
    SubPath,
    exactly_one,
    parse_quantity,
)
from deepseek_operator.api.names import Paths

RESERVED_MOUNTS = (Paths.CHECKPOINTS, Paths.CONFIG_DIR, Paths.RUN_DIR, "/tmp", "/dev", "/proc", "/sys")  # noqa: S108
"""Folders of the operator's own volumes, and the kernel's; a user's volume may not cover or enter them."""
RESERVED_PARENTS = ("/etc", "/run")
"""Folders that contain reserved ones: a volume may be mounted inside, not over them."""
MOUNT_PATTERN = "^(/[^/:]+)+/?$"
RESERVED_VOLUME_PREFIX = "deepseekjob-"
RESERVED_ENV_PREFIX = "DEEPSEEKJOB_"


_one_source = exactly_one("persistent_volume_claim", "config_map", "secret", "empty_dir")


def _cel_list(paths: tuple[str, ...]) -> str:
    return "[" + ", ".join(f"'{path}'" for path in paths) + "]"


def _outside_of_reserved(volume: Volume) -> bool:
    path = volume.mount_path.rstrip("/")
    inside = path.startswith(tuple(f"{reserved}/" for reserved in RESERVED_MOUNTS))
    return path not in RESERVED_MOUNTS + RESERVED_PARENTS and not inside


class KeySelector(Model):
    """A key of a ConfigMap or a Secret in the job's namespace."""

    name: DnsName = Field(description="Name of the object.")
    key: Annotated[str, Field(min_length=1, max_length=253)] = Field(description="Key in it.")


class EnvSource(Model):
    """Where an environment variable's value comes from."""

    rules: ClassVar = (
        Rule(
            "has(self.configMapKeyRef) != has(self.secretKeyRef)",
            "set exactly one of configMapKeyRef and secretKeyRef",
            holds=exactly_one("config_map_key_ref", "secret_key_ref"),
        ),
    )
    config_map_key_ref: KeySelector | None = Field(None, description="A key of a ConfigMap.")
    secret_key_ref: KeySelector | None = Field(
        None, description="A key of a Secret; the kubelet reads it, the operator never does."
    )


class EnvVar(Model):
    """An environment variable of the worker container."""

    rules: ClassVar = (
        Rule(
            "has(self.value) != has(self.valueFrom)",
            "set exactly one of value and valueFrom",
            holds=exactly_one("value", "value_from"),
        ),
        Rule(
            f"!self.name.startsWith('{RESERVED_ENV_PREFIX}')",
            f"names that start with {RESERVED_ENV_PREFIX} are set by the operator; choose another name",
            ".name",
            holds=lambda env: not env.name.startswith(RESERVED_ENV_PREFIX),
        ),
    )
    name: EnvName = Field(description="Name of the variable. Names that start with DEEPSEEKJOB_ are the operator's.")
    value: Annotated[str, Field(max_length=32768)] | None = Field(None, description="Literal value.")
    value_from: EnvSource | None = Field(None, description="Value from a ConfigMap or a Secret.")


class Resources(Model):
    """Compute resources of one worker pod."""

    rules: ClassVar = (
        Rule(
            "!has(self.requests) || !has(self.limits) || self.requests.all(k, !(k in self.limits) || "
            "quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) <= 0)",
            "a request is larger than its limit; raise the limit or lower the request",
            ".requests",
            holds=lambda resources: all(
                parse_quantity(request) <= parse_quantity(resources.limits.get(name, request))
                for name, request in resources.requests.items()
            ),
        ),
        Rule(
            "!has(self.requests) || self.requests.all(k, !k.contains('/') || (has(self.limits) && k in self.limits && "
            "quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) == 0))",
            "requests of extended resources such as nvidia.com/gpu must equal their limits; "
            "set only limits, and Kubernetes copies them to requests",
            ".requests",
            holds=lambda resources: all(
                parse_quantity(request) == parse_quantity(resources.limits.get(name, "0"))
                for name, request in resources.requests.items()
                if "/" in name
            ),
        ),
    )
    requests: Annotated[dict[str, Quantity], Field(max_length=16)] = Field(
        default_factory=dict, description="What the scheduler sets aside, for example cpu: 4, memory: 16Gi."
    )
    limits: Annotated[dict[str, Quantity], Field(max_length=16)] = Field(
        default_factory=dict, description="What the pod may use at most, for example nvidia.com/gpu: 8."
    )


class Toleration(Model):
    """A node taint that the workers tolerate."""

    key: Annotated[str, Field(max_length=316)] | None = Field(
        None, description="Taint key; omit with operator Exists to match all."
    )
    operator: Literal["Equal", "Exists"] = Field("Equal", description="How value is compared.")
    value: Annotated[str, Field(max_length=63)] | None = Field(None, description="Taint value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="Taint effect; omit to match all."
    )
    toleration_seconds: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Seconds that a NoExecute taint is tolerated; omit for ever."
    )


class ClaimRef(Model):
    """A PersistentVolumeClaim of the job's namespace."""

    claim_name: DnsName = Field(description="Name of the claim.")


class ObjectRef(Model):
    """A ConfigMap or Secret of the job's namespace."""

    name: DnsName = Field(description="Name of the object.")


class EmptyDir(Model):
    """Scratch space that lives as long as the pod."""

    medium: Literal["", "Memory"] = Field("", description="Memory for a tmpfs.")
    size_limit: Quantity | None = Field(None, description="Largest size, for example 10Gi.")


class Volume(Model):
    """A volume and where it is mounted. Only kinds that cannot reach into the node are allowed."""

    rules: ClassVar = (
        Rule(
            "!has(self.hostPath)",
            "hostPath volumes reach into the node and are not allowed; "
            "use persistentVolumeClaim, configMap, secret or emptyDir",
            ".hostPath",
            holds=lambda volume: volume.host_path is None,
        ),
        Rule(
            "has(self.hostPath) || [has(self.persistentVolumeClaim), has(self.configMap), has(self.secret), "
            "has(self.emptyDir)].filter(x, x).size() == 1",
            "set exactly one of persistentVolumeClaim, configMap, secret and emptyDir",
            holds=lambda volume: volume.host_path is not None or _one_source(volume),
        ),
        Rule(
            f"!self.name.startsWith('{RESERVED_VOLUME_PREFIX}')",
            f"names that start with {RESERVED_VOLUME_PREFIX} belong to the operator; choose another name",
            ".name",
            holds=lambda volume: not volume.name.startswith(RESERVED_VOLUME_PREFIX),
        ),
        Rule(
            f"self.mountPath.matches('{MOUNT_PATTERN}')",
            "mountPath must begin with / and have no : and no empty element; write it as /data or /mnt/corpus",
            ".mountPath",
            holds=lambda volume: re.match(MOUNT_PATTERN, volume.mount_path) is not None,
        ),
        Rule(
            f"!{_cel_list(RESERVED_MOUNTS + RESERVED_PARENTS)}.exists(p, self.mountPath == p || "
            f"self.mountPath == p + '/') && !{_cel_list(RESERVED_MOUNTS)}.exists(p, "
            "self.mountPath.startsWith(p + '/'))",
            f"mountPath is reserved: {', '.join(RESERVED_MOUNTS)} and what is in them, and "
            f"{' and '.join(RESERVED_PARENTS)} themselves, belong to the operator and the system; "
            "mount elsewhere, for example under /data or /mnt (for a larger /dev/shm set workers.sharedMemory)",
            ".mountPath",
            holds=_outside_of_reserved,
        ),
        Rule(
            r"!self.mountPath.matches('/\\.{1,2}(/|$)')",
            "mountPath must not contain . or .. as a path element; write the path out",
            ".mountPath",
            holds=lambda volume: not {".", ".."} & set(volume.mount_path.split("/")),
        ),
        Rule(
            r"!has(self.subPath) || !self.subPath.matches('(^|/)\\.\\.(/|$)')",
            "subPath must not contain .. as a path element; write the path out",
            ".subPath",
            holds=lambda volume: ".." not in (volume.sub_path or "").split("/"),
        ),
    )
    name: DnsLabel = Field(description="Name of the volume, unique among the workers' volumes.")
    mount_path: MountPath = Field(
        description="Where the container sees it; absolute, outside of /checkpoints, /etc/deepseekjob, "
        "/run/deepseekjob, /tmp, /dev, /proc and /sys."
    )
    sub_path: SubPath | None = Field(None, description="Folder of the volume that is mounted instead of its root.")
    read_only: bool = Field(False, description="Mount without write access.")
    persistent_volume_claim: ClaimRef | None = Field(None, description="A claim of the job's namespace.")
    config_map: ObjectRef | None = Field(None, description="A ConfigMap of the job's namespace.")
    secret: ObjectRef | None = Field(None, description="A Secret of the job's namespace.")
    empty_dir: EmptyDir | None = Field(None, description="Scratch space of the pod.")
    host_path: dict[str, Any] | None = Field(
        None,
        description="Not allowed: refused with the remedy.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )


class Workers(Model):
    """The gang of pods that train: one torchrun agent in each."""

    rules: ClassVar = (
        Rule(
            "!has(self.volumes) || self.volumes.all(v, self.volumes.exists_one(w, w.mountPath == v.mountPath))",
            "two volumes have the same mountPath; give each volume its own",
            ".volumes",
            holds=lambda workers: len({v.mount_path for v in workers.volumes}) == len(workers.volumes),
        ),
    )
    replicas: Annotated[int, Field(ge=1, le=4096)] = Field(1, description="Number of worker pods (torchrun nodes).")
    proc_per_node: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="Training processes in each pod; with GPUs, one a GPU."
    )
    image: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^\s]+$")] = Field(
        description="Container image that holds deepseek-trainer (and your script), for example ghcr.io/you/trainer:1.2."
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        "IfNotPresent", description="When the image is pulled."
    )
    image_pull_secrets: Annotated[list[ObjectRef], Field(max_length=16)] = Field(
        default_factory=list, description="Secrets with registry credentials."
    )
    resources: Resources = Field(default_factory=Resources, description="Requests and limits of each worker pod.")
    env: Annotated[list[EnvVar], Field(max_length=200)] = Field(
        default_factory=list,
        description="Environment of the worker container.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    node_selector: Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=64)] = Field(
        default_factory=dict, description="Labels that a node must carry."
    )
    tolerations: Annotated[list[Toleration], Field(max_length=64)] = Field(
        default_factory=list, description="Node taints that the workers tolerate."
    )
    shared_memory: Quantity | None = Field(
        None,
        description="Size of /dev/shm; NCCL and data loaders need more than the default 64Mi, for example 8Gi.",
    )
    volumes: Annotated[list[Volume], Field(max_length=32)] = Field(
        default_factory=list,
        description="Volumes of the worker pods.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )

    @field_validator("env", "volumes")
    @classmethod
    def _named_once(cls, entries: list[EnvVar] | list[Volume]) -> list[EnvVar] | list[Volume]:
        """The API server sees to it by x-kubernetes-list-map-keys."""
        names = [entry.name for entry in entries]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)}: named more than once; keep one entry of each name")
        return entries
