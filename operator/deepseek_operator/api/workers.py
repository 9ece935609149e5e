"""The worker pods of a DeepSeekJob: image, resources, environment, placement, volumes, containers beside the worker.

Rule: there is no raw pod template, and nothing here can escalate. A field that a profile may give has no default in
the schema: the API server would write it out, and nobody could tell any more that the job left it open. Its default
stands in the description, and `resolve` (api/resolve.py) fills it in.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from deepseek_operator.api.affinity import Affinity
from deepseek_operator.api.containers import EnvFrom, EnvVar, HelperContainer, ObjectRef
from deepseek_operator.api.fields import (
    INT_OR_STRING,
    DnsName,
    Image,
    Model,
    PriorityClass,
    Quantity,
    Rule,
    named_map,
    validations,
)
from deepseek_operator.api.labels import LabelKey, LabelMap, LabelValue, PodAnnotations, PodLabels
from deepseek_operator.api.resources import Resources
from deepseek_operator.api.volumes import Volume

AUTO = "auto"
GPU_RESOURCE = "nvidia.com/gpu"
MAX_PROC_PER_NODE = 64

_PROC_RULE = Rule(
    "string(self).matches('^(auto|[1-9]|[1-5][0-9]|6[0-4])$')",
    f"procPerNode is a number from 1 to {MAX_PROC_PER_NODE}, or auto (the number of GPUs requested, else 1); "
    "write one of them",
)


def _count_or_auto(value: Any) -> Any:
    if value == AUTO or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    return value


ProcPerNode = Annotated[
    str,
    Field(
        max_length=4,
        pattern="^(auto|[1-9]|[1-5][0-9]|6[0-4])$",
        json_schema_extra={INT_OR_STRING: True, **validations(_PROC_RULE)},
    ),
    BeforeValidator(_count_or_auto),
]
"""A number of processes, kept as text, or `auto`."""


class Toleration(Model):
    """A node taint that the workers tolerate."""

    rules: ClassVar = (
        Rule(
            "self.operator != 'Exists' || !has(self.value) || self.value == ''",
            "operator Exists takes no value; remove value, or set operator to Equal",
            ".value",
            holds=lambda toleration: toleration.operator != "Exists" or not toleration.value,
        ),
        Rule(
            "has(self.key) || self.operator == 'Exists'",
            "without key, all taints are meant: set operator to Exists, or name a key",
            ".operator",
            holds=lambda toleration: toleration.key is not None or toleration.operator == "Exists",
        ),
        Rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "tolerationSeconds is for effect NoExecute; set that effect, or remove tolerationSeconds",
            ".tolerationSeconds",
            holds=lambda toleration: toleration.toleration_seconds is None or toleration.effect == "NoExecute",
        ),
    )
    key: LabelKey | None = Field(None, description="Taint key; omit with operator Exists to match all.")
    operator: Literal["Equal", "Exists"] = Field("Equal", description="How value is compared.")
    value: LabelValue | None = Field(None, description="Taint value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="Taint effect; omit to match all."
    )
    toleration_seconds: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Seconds that a NoExecute taint is tolerated; omit for ever."
    )


def named_once(entries: list[Any]) -> list[Any]:
    """The entries.

    Raises:
        ValueError: two of them have the same name.
    """
    names = [entry.name for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)}: named more than once; keep one entry of each name")
    return entries


class Workers(Model):
    """The gang of pods that train: one torchrun agent in each."""

    rules: ClassVar = (
        Rule(
            "!has(self.volumes) || self.volumes.all(v, self.volumes.exists_one(w, w.mountPath == v.mountPath || "
            "w.mountPath == v.mountPath + '/'))",
            "two volumes have the same mountPath; give each volume its own",
            ".volumes",
            holds=lambda workers: len({v.mount_path.rstrip("/") for v in workers.volumes}) == len(workers.volumes),
        ),
        Rule(
            "!has(self.initContainers) || !has(self.sidecars) || "
            "self.initContainers.all(a, self.sidecars.all(b, a.name != b.name))",
            "an init container and a sidecar have the same name; rename one of them",
            ".sidecars",
            holds=lambda workers: (
                not ({helper.name for helper in workers.init_containers} & {helper.name for helper in workers.sidecars})
            ),
        ),
    )
    replicas: Annotated[int, Field(ge=1, le=4096)] = Field(
        1, description="Number of worker pods (torchrun nodes). kubectl scale changes it while the job is elastic."
    )
    proc_per_node: ProcPerNode | None = Field(
        None,
        description="Training processes in each pod: a number from 1 to 64, or auto for the number of GPUs that the pod "
        "requests (1 without GPUs). Default: the profile's, else auto.",
    )
    image: Image | None = Field(
        None,
        description="Container image that holds deepseek-trainer (and your script), for example "
        "ghcr.io/you/trainer:1.2. Required, unless the profile has one.",
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        None, description="When the image is pulled. Default: the profile's, else IfNotPresent."
    )
    image_pull_secrets: Annotated[list[ObjectRef], Field(max_length=16)] = Field(
        default_factory=list, description="Secrets with registry credentials; the profile's are added."
    )
    resources: Resources = Field(
        default_factory=Resources,
        description="Requests and limits of each worker pod; the profile's amounts stand where the job has none.",
    )
    env: Annotated[list[EnvVar], Field(max_length=200)] = Field(
        default_factory=list,
        description="Environment of the worker container; the profile's variables are added, the job's win.",
        json_schema_extra=named_map(),
    )
    env_from: Annotated[list[EnvFrom], Field(max_length=16)] = Field(
        default_factory=list, description="ConfigMaps and Secrets whose keys become environment variables."
    )
    node_selector: LabelMap = Field(
        default_factory=dict, description="Labels that a node must carry; the profile's are added, and win."
    )
    affinity: Affinity | None = Field(
        None, description="Rules of placement beside other pods and on nodes. Default: the profile's."
    )
    tolerations: Annotated[list[Toleration], Field(max_length=64)] = Field(
        default_factory=list, description="Node taints that the workers tolerate; the profile's are added."
    )
    priority_class_name: PriorityClass | None = Field(
        None, description="PriorityClass of the pods. Default: the profile's, else the cluster's."
    )
    runtime_class_name: DnsName | None = Field(
        None, description="RuntimeClass of the pods, for example nvidia. Default: the profile's, else the node's."
    )
    service_account_name: DnsName | None = Field(
        None,
        description="Service account of the pods. Its token is not mounted. Default: the namespace's default account.",
    )
    labels: PodLabels = Field(
        default_factory=dict, description="Labels of the pods; the profile's are added, the job's win."
    )
    annotations: PodAnnotations = Field(
        default_factory=dict, description="Annotations of the pods; the profile's are added, the job's win."
    )
    shared_memory: Quantity | None = Field(
        None,
        description="Size of /dev/shm; NCCL and data loaders need more than the usual 64Mi, for example 8Gi. "
        "Default: the profile's, else the container runtime's.",
    )
    volumes: Annotated[list[Volume], Field(max_length=32)] = Field(
        default_factory=list, description="Volumes of the worker pods.", json_schema_extra=named_map()
    )
    init_containers: Annotated[list[HelperContainer], Field(max_length=8)] = Field(
        default_factory=list,
        description="Containers that run, one after the other, before the worker starts.",
        json_schema_extra=named_map(),
    )
    sidecars: Annotated[list[HelperContainer], Field(max_length=8)] = Field(
        default_factory=list,
        description="Containers that run as long as the worker does; they don't keep a finished pod alive.",
        json_schema_extra=named_map(),
    )

    termination_grace_period_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = Field(
        None,
        description="Seconds that a pod has to finish its step and save when it is told to end (a drain, a suspension, "
        "another number of workers). Default: three times what the last save took and 15 s, from 30 to 600; 30 for the pods "
        "of a job that has saved nothing yet.",
    )

    @field_validator("env", "volumes", "init_containers", "sidecars")
    @classmethod
    def _named_once(cls, entries: list[Any]) -> list[Any]:
        """The API server sees to it by x-kubernetes-list-map-keys."""
        return named_once(entries)

    def has_gpus(self) -> bool:
        """Whether the worker's container asks for GPUs."""
        amounts = {**self.resources.requests, **self.resources.limits}
        return amounts.get(GPU_RESOURCE, "0") != "0"

    def processes(self) -> int:
        """Training processes in each pod, with `auto` counted out."""
        wanted = self.proc_per_node or AUTO
        if wanted != AUTO:
            return int(wanted)
        amounts = {**self.resources.requests, **self.resources.limits}
        gpus = amounts.get(GPU_RESOURCE, "0")
        return min(int(gpus), MAX_PROC_PER_NODE) if gpus.isdecimal() and int(gpus) > 0 else 1
