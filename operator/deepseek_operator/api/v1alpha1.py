"""The DeepSeekJob API: frozen pydantic models, the one source of the CRD, of `kubectl explain` and of docs/api.md.

Rules: every field has a description; unknown fields are errors; names are camelCase on the wire; a rule that
crosses fields is a CEL rule in `json_schema_extra` beside the model it belongs to, so that the API server
enforces it, and a pydantic validator where the local mode needs it too. `spec.trainer` and `spec.data` are
opaque here: their schema lives in `deepseek_trainer.config` and is written into the CRD by `make generate`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic.alias_generators import to_camel

from deepseek_operator.api.names import MAX_JOB_NAME

Quantity = Annotated[
    str,
    Field(
        max_length=64,
        pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$",
    ),
]
DnsLabel = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
DnsName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=253,
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    ),
]
EnvName = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
AbsolutePath = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^/")]


def cel(rule: str, message: str, field_path: str | None = None) -> JsonValue:
    """One x-kubernetes-validations entry; the message names the field and the remedy."""
    entry: dict[str, JsonValue] = {"rule": rule, "message": message}
    return entry | {"fieldPath": field_path} if field_path else entry


class Model(BaseModel):
    """Frozen, strict about unknown fields, camelCase on the wire."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)

    def _rules(self) -> tuple[bool, ...]:
        """Whether each CEL rule of this model holds, in the rules' order: the same rule where no API server is."""
        return ()

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        extra = self.model_config.get("json_schema_extra")
        rules = extra.get("x-kubernetes-validations", []) if isinstance(extra, dict) else []
        holds = self._rules()
        if holds and isinstance(rules, list):
            broken = [r["message"] for r, ok in zip(rules, holds, strict=True) if isinstance(r, dict) and not ok]
            if broken:
                raise ValueError("; ".join(map(str, broken)))
        return self


class KeySelector(Model):
    """A key of a ConfigMap or a Secret in the job's namespace."""

    name: DnsName = Field(description="Name of the object.")
    key: Annotated[str, Field(min_length=1, max_length=253)] = Field(description="Key in it.")


class EnvSource(Model):
    """Where an environment variable's value comes from."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "has(self.configMapKeyRef) != has(self.secretKeyRef)",
                    "set exactly one of configMapKeyRef and secretKeyRef",
                )
            ]
        }
    )
    config_map_key_ref: KeySelector | None = Field(None, description="A key of a ConfigMap.")
    secret_key_ref: KeySelector | None = Field(
        None, description="A key of a Secret; the kubelet reads it, the operator never does."
    )

    def _rules(self) -> tuple[bool, ...]:
        return ((self.config_map_key_ref is None) != (self.secret_key_ref is None),)


class EnvVar(Model):
    """An environment variable of the worker container."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel("has(self.value) != has(self.valueFrom)", "set exactly one of value and valueFrom"),
                cel(
                    "!self.name.startsWith('DEEPSEEKJOB_')",
                    "names that start with DEEPSEEKJOB_ are set by the operator; choose another name",
                    ".name",
                ),
            ]
        }
    )
    name: EnvName = Field(description="Name of the variable.")
    value: Annotated[str, Field(max_length=32768)] | None = Field(None, description="Literal value.")
    value_from: EnvSource | None = Field(None, description="Value from a ConfigMap or a Secret.")

    def _rules(self) -> tuple[bool, ...]:
        return (self.value is None) != (self.value_from is None), not self.name.startswith("DEEPSEEKJOB_")


class Resources(Model):
    """Compute resources of one worker pod."""

    requests: Annotated[dict[str, Quantity], Field(max_length=32)] = Field(
        default_factory=dict, description="What the scheduler sets aside, for example cpu: 4, memory: 16Gi."
    )
    limits: Annotated[dict[str, Quantity], Field(max_length=32)] = Field(
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

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "!has(self.hostPath)",
                    "hostPath volumes reach into the node and are not allowed; use persistentVolumeClaim, configMap, secret or emptyDir",
                    ".hostPath",
                ),
                cel(
                    "has(self.hostPath) || [has(self.persistentVolumeClaim), has(self.configMap), has(self.secret), "
                    "has(self.emptyDir)].filter(x, x).size() == 1",
                    "set exactly one of persistentVolumeClaim, configMap, secret and emptyDir",
                ),
            ]
        }
    )
    name: DnsLabel = Field(description="Name of the volume, unique among the workers' volumes.")
    mount_path: AbsolutePath = Field(description="Where the container sees it; absolute.")
    sub_path: Annotated[str, Field(max_length=4096)] | None = Field(
        None, description="Folder of the volume that is mounted instead of its root."
    )
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

    def _rules(self) -> tuple[bool, ...]:
        sources = (self.persistent_volume_claim, self.config_map, self.secret, self.empty_dir)
        return self.host_path is None, self.host_path is not None or sum(s is not None for s in sources) == 1


class Workers(Model):
    """The gang of pods that train: one torchrun agent in each."""

    replicas: Annotated[int, Field(ge=1, le=4096)] = Field(1, description="Number of worker pods (torchrun nodes).")
    proc_per_node: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="Training processes in each pod; with GPUs, one a GPU."
    )
    image: Annotated[str, Field(min_length=1, max_length=1024)] = Field(
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


class Entrypoint(Model):
    """Your own training code, run under torchrun: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT are set."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel("has(self.script) != has(self.module)", "set exactly one of script and module"),
            ]
        }
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

    def _rules(self) -> tuple[bool, ...]:
        return ((self.script is None) != (self.module is None),)


class CheckpointVolume(Model):
    """Where checkpoints live; it must outlast the pods."""

    claim_name: DnsName = Field(
        description="PersistentVolumeClaim of the job's namespace. With workers on several nodes it must be ReadWriteMany."
    )
    sub_path: Annotated[str, Field(max_length=1024, pattern=r"^[^/].*$")] | None = Field(
        None, description="Folder of the volume; default: the job's name."
    )


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

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "has(self.trainer) != has(self.entrypoint)",
                    "set exactly one of trainer (the built-in trainer) and entrypoint (your own script or module)",
                ),
                cel(
                    "!has(self.trainer) || has(self.data)",
                    "trainer needs data: set data.corpus to a named corpus or data.path to files on a volume",
                    ".trainer",
                ),
                cel(
                    "!has(self.entrypoint) || !has(self.data)",
                    "data belongs to the built-in trainer; with entrypoint, read your data yourself and remove data",
                    ".data",
                ),
            ]
        }
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

    def _rules(self) -> tuple[bool, ...]:
        return (
            (self.trainer is None) != (self.entrypoint is None),
            self.trainer is None or self.data is not None,
            self.entrypoint is None or self.data is None,
        )


class Condition(Model):
    """A fact about the job, in the form of metav1.Condition."""

    type: Annotated[str, Field(max_length=316)] = Field(description="Name of the fact.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: Annotated[str, Field(max_length=1024)] = Field(description="Why, in one word for programs.")
    message: Annotated[str, Field(max_length=32768)] = Field("", description="Why, for people.")
    last_transition_time: str = Field(
        description="When status last changed.", json_schema_extra={"format": "date-time"}
    )
    observed_generation: int = Field(0, description="The metadata.generation that this is about.")


class CheckpointStatus(Model):
    """The newest committed checkpoint."""

    step: int = Field(description="Optimizer steps that it contains.")
    time: str = Field(description="When it was committed.", json_schema_extra={"format": "date-time"})
    path: Annotated[str, Field(max_length=4096)] = Field(description="Where it is on the checkpoint volume.")
    bytes: int = Field(description="Its size.")
    seconds: float = Field(description="How long the save took.")


class RestoredFrom(Model):
    """The checkpoint that the present attempt started from."""

    step: int = Field(description="The step that training went on from.")
    path: Annotated[str, Field(max_length=4096)] = Field(description="Where the checkpoint is.")


class FailureStatus(Model):
    """One worker's failure, with the evidence."""

    time: str = Field(description="When the operator saw it.", json_schema_extra={"format": "date-time"})
    pod: str = Field(description="The pod.")
    node: str | None = Field(None, description="The node it ran on.")
    slot: int = Field(description="The worker's slot.")
    rank: int | None = Field(None, description="Global rank of the first failed process, where known.")
    exit_code: int | None = Field(None, description="Exit status of the container; none if the pod vanished.")
    reason: str = Field(description="Why, in one word.")
    message: Annotated[str, Field(max_length=2048)] = Field("", description="Last words of the worker.")


class Nodes(Model):
    """Workers ready and wanted."""

    ready: int = Field(0, description="Worker pods of the current generation that are ready.")
    desired: int = Field(0, description="Worker pods of the current generation.")


class Restarts(Model):
    """Restarts, by who caused them."""

    worker: int = Field(
        0, description="Worker failures that were answered by a restart; counts against recovery.maxRestarts."
    )
    infrastructure: int = Field(
        0, description="Pods lost to the cluster (deleted, evicted, node gone); costs no budget."
    )
    process: int = Field(0, description="Training processes restarted in place.")


class TrainingProgress(Model):
    """What the training reported last."""

    phase: str = Field("", description="starting, preparing, training, evaluating, checkpointing or finished.")
    step: int | None = Field(None, description="Optimizer steps done.")
    total_steps: int | None = Field(None, description="Optimizer steps of the whole run.")
    percent: str | None = Field(None, description="Steps done, as text with a percent sign.")
    epoch: int | None = Field(None, description="Passes over the data that are complete.")
    samples: int | None = Field(None, description="Samples consumed, each exactly once.")
    chain: str | None = Field(None, description="Hash chain over the consumed batches: the data receipt.")
    loss: str | None = Field(None, description="Training loss, nats per token.")
    validation_loss: str | None = Field(None, description="Loss on held-out data, nats per token.")
    unigram_entropy: str | None = Field(None, description="Loss of a model that ignores context, nats per token.")
    tokens_per_second: int | None = Field(None, description="Throughput of the whole job.")
    eta: str | None = Field(None, description="Estimated time to the last step, as 1h02m03s.")
    time: str | None = Field(None, description="When this was read.", json_schema_extra={"format": "date-time"})


class GoodputStatus(Model):
    """Seconds since the start by what they were spent on."""

    productive: int = Field(0, description="Training steps whose result was kept.")
    startup: int = Field(0, description="From creation to the first step.")
    checkpoint: int = Field(0, description="Training stood still to save.")
    recovery: int = Field(0, description="From a fault to the next step.")
    stalled: int = Field(0, description="Pods ran without making steps.")
    waiting: int = Field(0, description="Waiting for pods, images or peers.")
    ratio: str | None = Field(None, description="Productive share of the wall clock.")


class Status(Model):
    """What is true about the job; written by the operator alone, once a pass."""

    model_config = ConfigDict(extra="ignore")

    observed_generation: int = Field(0, description="The metadata.generation that this status is about.")
    state: str = Field("Pending", description="One word: a fold of the conditions.")
    reason: str = Field("", description="The reason behind state.")
    conditions: list[Condition] = Field(
        default_factory=list,
        description="Facts about the job, always the same set.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    attempt: int = Field(0, description="Starts from scratch or from a checkpoint, counted before they happen.")
    generation: int = Field(0, description="Memberships, counted before they are announced.")
    launched_generation: int = Field(
        0, description="The newest generation whose pods were all seen: a pod of it that is missing was lost."
    )
    incarnations: dict[str, int] = Field(
        default_factory=dict,
        description="Replacements of each slot's pod, counted before they are created; slots without one are left out.",
    )
    nodes: Nodes = Field(default_factory=Nodes, description="Workers ready and wanted.")
    ready_nodes: str | None = Field(None, description="Ready and wanted workers as text, for the NODES column.")
    training: TrainingProgress | None = Field(None, description="What the training reported last.")
    checkpoint: CheckpointStatus | None = Field(None, description="The newest committed checkpoint.")
    restored_from: RestoredFrom | None = Field(
        None, description="The checkpoint that the present attempt started from."
    )
    restarts: Restarts = Field(default_factory=Restarts, description="Restarts, by who caused them.")
    total_restarts: int = Field(0, description="All restarts of workers, for the RESTARTS column.")
    failures: Annotated[list[FailureStatus], Field(max_length=10)] = Field(
        default_factory=list, description="The last failures, newest first."
    )
    goodput: GoodputStatus | None = Field(None, description="Where the time went.")
    start_time: str | None = Field(
        None, description="When the first pods were asked for.", json_schema_extra={"format": "date-time"}
    )
    completion_time: str | None = Field(
        None, description="When the job ended.", json_schema_extra={"format": "date-time"}
    )


class ObjectMeta(Model):
    """The part of metadata that is used; everything else is ignored."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, Field(max_length=MAX_JOB_NAME)] = ""
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

    api_version: Literal["training.deepseekjob.dev/v1alpha1"] = "training.deepseekjob.dev/v1alpha1"
    kind: Literal["DeepSeekJob"] = "DeepSeekJob"
    metadata: ObjectMeta
    spec: Spec
    status: Status = Field(default_factory=Status)
