"""The DeepSeekJob API: frozen pydantic models, the one source of the CRD, of `kubectl explain` and of docs/api.md.

Rules: every field has a description; unknown fields are errors; names are camelCase on the wire; a rule that
crosses fields is a `Rule` beside the model it belongs to, so that the API server enforces it, and so does the
local mode. `spec.trainer` and `spec.data` are opaque here: their schema lives in `deepseek_trainer.config` and
is written into the CRD by `make generate`.

This module is the address of the API: everything is importable from here, wherever it is defined.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from deepseek_operator.api.fields import DnsLabel, DnsName, Model, Quantity, Rule, SubPath, exactly_one
from deepseek_operator.api.names import MAX_JOB_NAME
from deepseek_operator.api.status import (
    CheckpointStatus,
    Condition,
    FailureStatus,
    GoodputStatus,
    Master,
    Nodes,
    Restarts,
    RestoredFrom,
    Status,
    TrainingProgress,
)
from deepseek_operator.api.workers import (
    ClaimRef,
    EmptyDir,
    EnvSource,
    EnvVar,
    KeySelector,
    ObjectRef,
    Resources,
    Toleration,
    Volume,
    Workers,
)

__all__ = [
    "Checkpoint",
    "CheckpointInterval",
    "CheckpointStatus",
    "CheckpointVolume",
    "ClaimRef",
    "Condition",
    "DeepSeekJob",
    "DnsLabel",
    "DnsName",
    "EmptyDir",
    "Entrypoint",
    "EnvSource",
    "EnvVar",
    "FailureStatus",
    "GoodputStatus",
    "JobName",
    "KeySelector",
    "Master",
    "Model",
    "Nodes",
    "ObjectMeta",
    "ObjectRef",
    "Quantity",
    "Recovery",
    "Resources",
    "Restarts",
    "RestoredFrom",
    "Spec",
    "Status",
    "Toleration",
    "TrainingProgress",
    "Volume",
    "Workers",
]

JOB_NAME_PATTERN = "^[a-z]([-a-z0-9]*[a-z0-9])?$"
JobName = Annotated[str, Field(pattern=JOB_NAME_PATTERN)]
"""A DNS label that begins with a letter, because a Service is named after it."""
IMMUTABLE = {
    "workers": True,
    "backend": True,
    "trainer": False,
    "entrypoint": False,
    "data": False,
    "checkpoint": False,
}
"""Fields of the spec that can't change while the job exists, and whether they are always present."""


def _immutable(field: str, required: bool) -> Rule:
    """The transition rule of one field; a presence that changes is a change too."""
    same = f"self.{field} == oldSelf.{field}"
    both = f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || {same})"
    return Rule(
        same if required else both,
        f"{field} can't change while the job exists (only recovery can); delete the job and apply it anew: with the "
        "same checkpoint volume and subPath it goes on from its last checkpoint",
        f".{field}",
    )


class Entrypoint(Model):
    """Your own training code, run under torchrun: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT are set."""

    rules: ClassVar = (
        Rule(
            "has(self.script) != has(self.module)",
            "set exactly one of script and module",
            holds=exactly_one("script", "module"),
        ),
    )
    script: Annotated[str, Field(min_length=1, max_length=4096)] | None = Field(
        None, description="Path of a Python file in the image or on a volume."
    )
    module: (
        Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[A-Za-z_][\w]*(\.[A-Za-z_][\w]*)*$")] | None
    ) = Field(None, description="Python module, run as with python -m.")
    args: Annotated[list[Annotated[str, Field(max_length=32768)]], Field(max_length=256)] = Field(
        default_factory=list, description="Arguments."
    )


class CheckpointVolume(Model):
    """Where checkpoints live; it must outlast the pods."""

    rules: ClassVar = (
        Rule(
            r"!has(self.subPath) || !self.subPath.matches('(^|/)\\.\\.(/|$)')",
            "subPath must not contain .. as a path element; write the path out",
            ".subPath",
            holds=lambda volume: ".." not in (volume.sub_path or "").split("/"),
        ),
    )
    claim_name: DnsName = Field(
        description="PersistentVolumeClaim of the job's namespace. With workers on several nodes it must be ReadWriteMany."
    )
    sub_path: SubPath | None = Field(None, description="Folder of the volume; default: the job's name.")


class CheckpointInterval(Model):
    """How often the state is saved."""

    steps: Annotated[int, Field(ge=1, le=10_000_000)] = Field(100, description="Optimizer steps between two saves.")


class Checkpoint(Model):
    """The checkpoint contract: what a restart goes back to."""

    volume: CheckpointVolume = Field(description="Where checkpoints live.")
    interval: CheckpointInterval = Field(
        default_factory=CheckpointInterval, description="How often the state is saved."
    )
    keep: Annotated[int, Field(ge=1, le=1000)] = Field(
        3, description="Verified checkpoints that are kept; the newest good one is never deleted."
    )


class Recovery(Model):
    """How often a job is tried again."""

    max_restarts: Annotated[int, Field(ge=0, le=1000)] = Field(
        3,
        description="Worker failures (exit status other than 0) that are answered by a restart from the last checkpoint.",
    )
    max_process_restarts: Annotated[int, Field(ge=0, le=1000)] = Field(
        3, description="Restarts of crashed training processes inside living pods, in each generation."
    )


class Spec(Model):
    """What is trained, on what, with which data, saved where."""

    rules: ClassVar = (
        Rule(
            "has(self.trainer) != has(self.entrypoint)",
            "set exactly one of trainer (the built-in trainer) and entrypoint (your own script or module)",
            holds=exactly_one("trainer", "entrypoint"),
        ),
        Rule(
            "!has(self.trainer) || has(self.data)",
            "trainer needs data: set data.corpus to a named corpus or data.path to files on a volume",
            ".trainer",
            holds=lambda spec: spec.trainer is None or spec.data is not None,
        ),
        Rule(
            "!has(self.entrypoint) || !has(self.data)",
            "data belongs to the built-in trainer; with entrypoint, read your data yourself and remove data",
            ".data",
            holds=lambda spec: spec.entrypoint is None or spec.data is None,
        ),
        *(_immutable(field, required) for field, required in IMMUTABLE.items()),
    )
    workers: Workers = Field(description="The pods that train.")
    trainer: dict[str, Any] | None = Field(None, description="Configuration of the built-in trainer.")
    entrypoint: Entrypoint | None = Field(
        None, description="Your own script or module, instead of the built-in trainer."
    )
    backend: Literal["auto", "nccl", "gloo"] = Field(
        "auto", description="Collectives: nccl on GPUs, gloo on CPUs; auto takes nccl where the pod has CUDA."
    )
    data: dict[str, Any] | None = Field(None, description="What the built-in trainer trains on.")
    checkpoint: Checkpoint | None = Field(
        None, description="Where and how often the state is saved. Without it, a restart starts over."
    )
    recovery: Recovery = Field(default_factory=Recovery, description="How often the job is tried again.")


class ObjectMeta(Model):
    """The part of metadata that is used; everything else is ignored."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[JobName, Field(max_length=MAX_JOB_NAME)] = ""
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class DeepSeekJob(Model):
    """A distributed training run of a DeepSeek model."""

    rules: ClassVar = (
        Rule(
            f"self.metadata.name.size() <= {MAX_JOB_NAME} && self.metadata.name.matches('{JOB_NAME_PATTERN}')",
            f"metadata.name must be at most {MAX_JOB_NAME} characters of a-z, 0-9 and -, begin with a letter and not "
            "end with -, because the names of the job's pods and Service are made from it; choose such a name",
        ),
    )
    api_version: Literal["training.deepseekjob.dev/v1alpha1"] = "training.deepseekjob.dev/v1alpha1"
    kind: Literal["DeepSeekJob"] = "DeepSeekJob"
    metadata: ObjectMeta
    spec: Spec
    status: Status = Field(default_factory=Status)
