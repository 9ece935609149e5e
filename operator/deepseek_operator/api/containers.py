"""What a container of a worker pod is made of: environment, resources, mounts, and the containers beside the worker.

Rule: nothing here can escalate. There is no security context to write, no port on the host, no API token: what a
container may do is the operator's to say, and it is the same for all of them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from deepseek_operator.api.fields import (
    DnsLabel,
    DnsName,
    EnvName,
    Image,
    Model,
    MountPath,
    Quantity,
    Rule,
    SubPath,
    exactly_one,
    named_map,
    parse_quantity,
    path_rules,
)

RESERVED_ENV_PREFIX = "DEEPSEEKJOB_"
RESERVED_CONTAINER_NAMES = ("worker", "ray")
CHECKPOINTS = "checkpoints"
"""What the mounts of init containers and sidecars call the checkpoint volume."""


class KeySelector(Model):
    """A key of a ConfigMap or a Secret in the job's namespace."""

    name: DnsName = Field(description="Name of the object.")
    key: Annotated[str, Field(min_length=1, max_length=253)] = Field(description="Key in it.")


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


class Resources(Model):
    """Compute resources of a container."""

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
        default_factory=dict, description="What the container may use at most, for example nvidia.com/gpu: 8."
    )


class Mount(Model):
    """Where an init container or a sidecar sees one of the workers' volumes."""

    rules: ClassVar = path_rules("mountPath", "subPath")
    name: DnsLabel = Field(description="One of workers.volumes, or checkpoints for the checkpoint volume.")
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
    mounts: Annotated[list[Mount], Field(max_length=32)] = Field(
        default_factory=list, description="The workers' volumes that it sees, and where."
    )
