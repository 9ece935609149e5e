"""The DeepSeekJob API: frozen pydantic models, the one source of the CRD, of `kubectl explain` and of docs/api.md.

Rules: every field has a description; unknown fields are errors; names are camelCase on the wire; a rule that
crosses fields is a `Rule` beside the model it belongs to, so that the API server enforces it, and so does the
local mode. `spec.trainer` and `spec.data` (but for its `ray`) are opaque here: their schema lives in
`deepseek_trainer.config` and is written into the CRD by `make generate`.

This module is the address of the API: everything is importable from here, wherever it is defined.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from deepseek_operator.api.affinity import Affinity
from deepseek_operator.api.checkpoint import (
    ALONE,
    Checkpoint,
    CheckpointInterval,
    CheckpointVolume,
    ResumeFrom,
    VolumeTemplate,
)
from deepseek_operator.api.containers import (
    CHECKPOINTS,
    EnvFrom,
    EnvSource,
    EnvVar,
    HelperContainer,
    KeySelector,
    Mount,
    ObjectRef,
)
from deepseek_operator.api.fields import (
    DnsLabel,
    DnsName,
    Model,
    Quantity,
    Rule,
    exactly_one,
)
from deepseek_operator.api.memory import RULES as MEMORY_RULES
from deepseek_operator.api.memory import CheckpointMemory
from deepseek_operator.api.mesh import RULES as MESH_RULES
from deepseek_operator.api.mutability import TRANSITIONS
from deepseek_operator.api.names import MAX_JOB_NAME
from deepseek_operator.api.objectstore import ObjectStore
from deepseek_operator.api.policies import (
    Backoff,
    Budgets,
    Communication,
    Elastic,
    Lifecycle,
    NodeExclusion,
    Preflight,
    Recovery,
    Scheduling,
    Topology,
)
from deepseek_operator.api.ray import FITS, Data, Ray, RayHead, Raylet
from deepseek_operator.api.resources import Resources
from deepseek_operator.api.status import (
    AppliedProfile,
    CheckpointStatus,
    Condition,
    DataStatus,
    Exclusion,
    FailureStatus,
    GoodputStatus,
    Master,
    Nodes,
    RayStatus,
    Restarts,
    RestoredFrom,
    Status,
    TrainingProgress,
)
from deepseek_operator.api.volumes import ClaimRef, EmptyDir, ImageSource, Projected, Volume
from deepseek_operator.api.workers import Toleration, Workers

__all__ = [
    "Affinity",
    "AppliedProfile",
    "Backoff",
    "Budgets",
    "Checkpoint",
    "CheckpointInterval",
    "CheckpointMemory",
    "CheckpointStatus",
    "CheckpointVolume",
    "ClaimRef",
    "Communication",
    "Condition",
    "Data",
    "DataStatus",
    "DeepSeekJob",
    "DnsLabel",
    "DnsName",
    "Elastic",
    "EmptyDir",
    "Entrypoint",
    "EnvFrom",
    "EnvSource",
    "EnvVar",
    "Exclusion",
    "FailureStatus",
    "GoodputStatus",
    "HelperContainer",
    "ImageSource",
    "JobName",
    "KeySelector",
    "Lifecycle",
    "Master",
    "Model",
    "Mount",
    "NodeExclusion",
    "Nodes",
    "ObjectMeta",
    "ObjectRef",
    "ObjectStore",
    "Preflight",
    "Projected",
    "Quantity",
    "Ray",
    "RayHead",
    "RayStatus",
    "Raylet",
    "Recovery",
    "Resources",
    "Restarts",
    "RestoredFrom",
    "ResumeFrom",
    "Scheduling",
    "Spec",
    "Status",
    "Toleration",
    "Topology",
    "TrainingProgress",
    "Volume",
    "VolumeTemplate",
    "Workers",
]

JOB_NAME_PATTERN = "^[a-z]([-a-z0-9]*[a-z0-9])?$"
JobName = Annotated[str, Field(pattern=JOB_NAME_PATTERN)]
"""A DNS label that begins with a letter, because a Service is named after it."""


def _mounts_exist(field: str) -> Rule:
    """Containers beside the worker mount what the pod has."""
    attribute = "init_containers" if field == "initContainers" else "sidecars"
    return Rule(
        f"!has(self.workers.{field}) || self.workers.{field}.all(c, !has(c.mounts) || c.mounts.all(m, "
        f"m.name == '{CHECKPOINTS}' ? has(self.checkpoint) && has(self.checkpoint.volume) : "
        "(has(self.workers.volumes) && self.workers.volumes.exists(v, v.name == m.name))))",
        f"a mount names no volume; name one of workers.volumes, or {CHECKPOINTS} if the job has a checkpoint volume",
        f".workers.{field}",
        holds=lambda spec: all(
            mount.name in _mountable(spec) for helper in getattr(spec.workers, attribute) for mount in helper.mounts
        ),
    )


def _mountable(spec: Spec) -> set[str]:
    has_volume = spec.checkpoint is not None and spec.checkpoint.volume is not None
    return {volume.name for volume in spec.workers.volumes} | ({CHECKPOINTS} if has_volume else set())


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


_GUARD = "self.trainer.training.guard"
_ROLLS_BACK = " || ".join(
    f"has(self.trainer) && has({_GUARD}) && has({_GUARD}.{field}) && {_GUARD}.{field} == 'Rollback'"
    for field in ("onNonFinite", "onSpike")
)


def _rolls_back(spec: Spec) -> bool:
    """Whether the built-in trainer may go back to a checkpoint."""
    guard = ((spec.trainer or {}).get("training") or {}).get("guard") or {}
    return "Rollback" in (guard.get("onNonFinite"), guard.get("onSpike"))


def _places_its_logs(spec: Spec) -> bool:
    """Whether what the built-in trainer writes down has a volume to lie on."""
    logging = (spec.trainer or {}).get("logging") or {}
    has_volume = spec.checkpoint is not None and spec.checkpoint.volume is not None
    return not logging.get("kinds") or logging.get("directory") is not None or has_volume


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
            "trainer needs data: set data.corpus to a named corpus, data.path to files on a volume, or data.dataset",
            ".trainer",
            holds=lambda spec: spec.trainer is None or spec.data is not None,
        ),
        Rule(
            "!has(self.entrypoint) || !has(self.data)",
            "data belongs to the built-in trainer; with entrypoint, read your data yourself and remove data",
            ".data",
            holds=lambda spec: spec.entrypoint is None or spec.data is None,
        ),
        Rule(
            "!has(self.data) || !has(self.data.audit) || !self.data.audit || has(self.checkpoint)",
            "data.audit is kept beside the checkpoints; set checkpoint.volume, or remove data.audit",
            ".data.audit",
            holds=lambda spec: (
                spec.data is None or not spec.data.trainers().get("audit") or spec.checkpoint is not None
            ),
        ),
        Rule(
            f"has(self.checkpoint) || !({_ROLLS_BACK})",
            "trainer.training.guard: Rollback goes back to a checkpoint; set checkpoint.volume, or take SkipStep or Fail",
            ".trainer.training.guard",
            holds=lambda spec: spec.checkpoint is not None or not _rolls_back(spec),
        ),
        Rule(
            "!has(self.trainer) || !has(self.trainer.logging) || !has(self.trainer.logging.kinds) || "
            "self.trainer.logging.kinds.size() == 0 || has(self.trainer.logging.directory) || "
            "(has(self.checkpoint) && has(self.checkpoint.volume))",
            "trainer.logging is written beside the checkpoints on a volume, and this job has none; set "
            "trainer.logging.directory to a folder on a volume of the workers, or checkpoint.volume",
            ".trainer.logging",
            holds=_places_its_logs,
        ),
        Rule(
            f"!has(self.data) || !has(self.data.mode) || self.data.mode != 'Dynamic' || !({_ROLLS_BACK})",
            "trainer.training.guard: Rollback leaves out the samples of a step, and with data.mode Dynamic a step has others the "
            "second time; take SkipStep or Fail, or data.mode Deterministic",
            ".trainer.training.guard",
            holds=lambda spec: (
                spec.data is None or spec.data.trainers().get("mode") != "Dynamic" or not _rolls_back(spec)
            ),
        ),
        Rule(
            "!has(self.checkpoint) || !has(self.checkpoint.resumeFrom) || has(self.trainer)",
            "checkpoint.resumeFrom is of the built-in trainer; with entrypoint, read the checkpoint yourself and remove it",
            ".checkpoint.resumeFrom",
            holds=lambda spec: (
                spec.checkpoint is None or spec.checkpoint.resume_from is None or spec.trainer is not None
            ),
        ),
        Rule(
            "!has(self.checkpoint) || !has(self.checkpoint.objectStore) || has(self.trainer)",
            "checkpoint.objectStore is of the built-in trainer; with entrypoint, set checkpoint.volume, or remove checkpoint and "
            "write to the store yourself",
            ".checkpoint.objectStore",
            holds=lambda spec: (
                spec.checkpoint is None or spec.checkpoint.object_store is None or spec.trainer is not None
            ),
        ),
        Rule(
            "has(self.workers.image) || has(self.profile)",
            "workers.image is missing; set it, or name a profile that has one",
            ".workers.image",
            holds=lambda spec: spec.workers.image is not None or spec.profile is not None,
        ),
        Rule(
            "!has(self.elastic) || (self.workers.replicas >= self.elastic.minReplicas && "
            "self.workers.replicas <= self.elastic.maxReplicas)",
            "workers.replicas is outside of elastic.minReplicas and maxReplicas; choose a number between them",
            ".workers.replicas",
            holds=lambda spec: (
                spec.elastic is None or spec.elastic.min_replicas <= spec.workers.replicas <= spec.elastic.max_replicas
            ),
        ),
        *MESH_RULES,
        FITS,
        *MEMORY_RULES,
        ALONE,
        *map(_mounts_exist, ("initContainers", "sidecars")),
        *TRANSITIONS,
    )
    profile: DnsName | None = Field(
        None,
        description="DeepSeekProfile of the cluster that fills in what this job leaves open, and limits what it may ask "
        "for. It is read once, when the job starts: a later change of the profile never changes the job.",
    )
    workers: Workers = Field(description="The pods that train.")
    trainer: dict[str, Any] | None = Field(None, description="Configuration of the built-in trainer.")
    entrypoint: Entrypoint | None = Field(
        None, description="Your own script or module, instead of the built-in trainer."
    )
    backend: Literal["auto", "nccl", "gloo"] = Field(
        "auto", description="Collectives: nccl on GPUs, gloo on CPUs; auto takes nccl where the pod has CUDA."
    )
    data: Data | None = Field(None, description="What the built-in trainer trains on.")
    checkpoint: Checkpoint | None = Field(
        None, description="Where and how often the state is saved. Without it, a restart starts over."
    )
    communication: Communication = Field(
        default_factory=Communication, description="The network of the collectives (NCCL, gloo)."
    )
    elastic: Elastic | None = Field(
        None, description="Lets workers.replicas change while the job runs, by kubectl scale or an autoscaler."
    )
    recovery: Recovery = Field(default_factory=Recovery, description="How often, and how, the job is tried again.")
    scheduling: Scheduling = Field(default_factory=Scheduling, description="How the gang gets its nodes.")
    lifecycle: Lifecycle = Field(
        default_factory=Lifecycle, description="Deadlines, what counts as success, and what is left in the end."
    )
    preflight: Preflight | None = Field(
        None, description="A check of the gang before the first step. Without it there is none."
    )
    suspend: bool = Field(
        False,
        description="true stops the job: its pods save and go, and its place in the queue is given up. false goes on "
        "from the last checkpoint.",
    )
    managed_by: Annotated[str, Field(min_length=1, max_length=253)] | None = Field(
        None,
        description="Another controller that this job is left to, for example kueue.x-k8s.io/multikueue; the operator "
        "then does nothing about it. Default: training.deepseekjob.dev/deepseek-operator, this one.",
    )

    @property
    def ray(self) -> Ray | None:
        """The Ray cluster that the job wants; None: none."""
        return self.data.ray if self.data is not None else None


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
