"""What a container of a worker pod is made of: environment, resources, mounts, and the containers beside the worker.

Rule: nothing here can escalate. There is no security context to write, no port on the host, no API token: what a
container may do is the operator's to say, and it is the same for all of them.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from deepseek_operator.api.fields import (
    DnsLabel,
    DnsName,
    EnvName,
    Image,
    Model,
    MountPath,
    Rule,
    SubPath,
    exactly_one,
    named_map,
    path_rules,
)
from deepseek_operator.api.resources import Resources

RESERVED_ENV_PREFIX = "DEEPSEEKJOB_"
RESERVED_CONTAINER_NAMES = ("worker", "ray")
CHECKPOINTS = "checkpoints"
"""What the mounts of init containers and sidecars call the checkpoint volume."""
_KERNELS = "^/(proc|sys|dev)(/|$)"


class KeySelector(Model):
    """A key of a ConfigMap or a Secret in the job's namespace."""

    name: DnsName = Field(description="Name of the object.")
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^\.?[-_a-zA-Z0-9][-._a-zA-Z0-9]*$")] = Field(
        description="Key in it."
    )


class ObjectRef(Model):
    """A ConfigMap or Secret of the job's namespace."""

    name: DnsName = Field(description="Name of the object.")


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
    """An environment variable of a container."""

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


class EnvFrom(Model):
    """A ConfigMap or Secret whose keys all become environment variables."""

    rules: ClassVar = (
        Rule(
            "has(self.configMapRef) != has(self.secretRef)",
            "set exactly one of configMapRef and secretRef",
            holds=exactly_one("config_map_ref", "secret_ref"),
        ),
        Rule(
            f"!has(self.prefix) || !self.prefix.startsWith('{RESERVED_ENV_PREFIX}')",
            f"names that start with {RESERVED_ENV_PREFIX} are set by the operator; choose another prefix",
            ".prefix",
            holds=lambda source: not (source.prefix or "").startswith(RESERVED_ENV_PREFIX),
        ),
    )
    prefix: EnvName | None = Field(None, description="Put in front of each key.")
    config_map_ref: ObjectRef | None = Field(None, description="A ConfigMap.")
    secret_ref: ObjectRef | None = Field(None, description="A Secret; the kubelet reads it, the operator never does.")


class Mount(Model):
    """Where an init container or a sidecar sees one of the workers' volumes."""

    rules: ClassVar = (
        *path_rules("mountPath", "subPath"),
        Rule(
            f"!self.mountPath.matches('{_KERNELS}') || self.mountPath in ['/dev/shm', '/dev/shm/']",
            "mountPath is in a folder of the kernel's: /proc, /sys or /dev; mount elsewhere",
            ".mountPath",
            holds=lambda mount: (
                re.match(_KERNELS, mount.mount_path) is None or mount.mount_path.rstrip("/") == "/dev/shm"  # noqa: S108
            ),
        ),
        Rule(
            f"self.name != '{CHECKPOINTS}' || !has(self.subPath)",
            "the checkpoint volume is mounted whole, because the kubelet would make a missing folder as root, and the "
            "workers could not write to it; remove subPath and look in the job's folder",
            ".subPath",
            holds=lambda mount: mount.name != CHECKPOINTS or mount.sub_path is None,
        ),
    )
    name: DnsLabel = Field(
        description="One of workers.volumes, or checkpoints for the checkpoint volume, if the job has one, in which the job's folder is "
        "checkpoint.volume.subPath, by default the job's name."
    )
    mount_path: MountPath = Field(description="Absolute path in the container.")
    sub_path: SubPath | None = Field(None, description="Folder of the volume that is mounted instead of its root.")
    read_only: bool = Field(False, description="Mount without write access.")


class HelperContainer(Model):
    """A container beside the worker: it runs before it (initContainers), or as long as it does (sidecars)."""

    rules: ClassVar = (
        Rule(
            f"!(self.name in {list(RESERVED_CONTAINER_NAMES)}) && !self.name.startsWith('deepseekjob-')",
            "names of containers that are the operator's own can't be taken; choose another name",
            ".name",
            holds=lambda helper: (
                helper.name not in RESERVED_CONTAINER_NAMES and not helper.name.startswith("deepseekjob-")
            ),
        ),
        Rule(
            "!has(self.mounts) || self.mounts.all(m, self.mounts.exists_one(n, n.mountPath == m.mountPath || "
            "n.mountPath == m.mountPath + '/'))",
            "two mounts have the same mountPath; give each its own",
            ".mounts",
            holds=lambda helper: len({m.mount_path.rstrip("/") for m in helper.mounts}) == len(helper.mounts),
        ),
    )
    name: DnsLabel = Field(description="Name of the container, unique in the pod.")
    image: Image = Field(description="Container image.")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        "IfNotPresent", description="When the image is pulled."
    )
    command: Annotated[list[Annotated[str, Field(max_length=32768)]], Field(max_length=64)] = Field(
        default_factory=list, description="What is run; default: the image's entry point."
    )
    args: Annotated[list[Annotated[str, Field(max_length=32768)]], Field(max_length=256)] = Field(
        default_factory=list, description="Arguments; default: the image's."
    )
    env: Annotated[list[EnvVar], Field(max_length=100)] = Field(
        default_factory=list, description="Environment.", json_schema_extra=named_map()
    )
    resources: Resources = Field(default_factory=Resources, description="Requests and limits.")
    mounts: Annotated[list[Mount], Field(max_length=16)] = Field(
        default_factory=list, description="The workers' volumes that it sees, and where."
    )
