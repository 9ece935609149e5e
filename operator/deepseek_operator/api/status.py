"""The status of a DeepSeekJob: what is true about it, for people (`kubectl get`), programs and kstatus.

Rule: written by the operator alone, whole, once a pass. Unknown fields are ignored when it is read back, so that
an older operator can go on with what a newer one wrote.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from deepseek_operator.api.fields import Model


class StatusModel(Model):
    """A part of the status."""

    model_config = ConfigDict(extra="ignore")


class Condition(StatusModel):
    """A fact about the job, in the form of metav1.Condition."""

    type: Annotated[str, Field(max_length=316)] = Field(description="Name of the fact.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: Annotated[str, Field(max_length=1024)] = Field(description="Why, in one word for programs.")
    message: Annotated[str, Field(max_length=32768)] = Field("", description="Why, for people.")
    last_transition_time: str = Field(
        description="When status last changed.", json_schema_extra={"format": "date-time"}
    )
    observed_generation: int = Field(0, description="The metadata.generation that this is about.")


class CheckpointStatus(StatusModel):
    """The newest committed checkpoint. `status.conditions` has CheckpointFailed when a later one could not be saved."""

    step: int = Field(description="Optimizer steps that it contains.")
    time: str = Field(
        description="When it was committed; its age is the time since then.", json_schema_extra={"format": "date-time"}
    )
    path: Annotated[str, Field(max_length=4096)] = Field(
        description="Where it is: a folder on the checkpoint volume, or a URL."
    )
    bytes: int = Field(description="Its size.")
    seconds: float = Field(description="How long the save took, from its step to the commit.")
    blocked_seconds: float | None = Field(
        None, description="Seconds of these in which training stood still; absent where it is not told."
    )
    interval_seconds: float | None = Field(
        None, description="Seconds from this save to the next one, with checkpoint.interval.seconds or auto."
    )
    verified: bool | None = Field(
        None, description="It was read again from the volume and is what was committed; absent where it is not told."
    )


class RestoredFrom(StatusModel):
    """The checkpoint that the present attempt started from."""

    step: int = Field(description="The step that training went on from.")
    path: Annotated[str, Field(max_length=4096)] = Field(description="Where the checkpoint is.")
    passed_over: Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=5)] | None = Field(
        None,
        description="Newer checkpoints that were refused, each with the reason: damaged, or training failed soon after it in "
        "two starts. Absent when there are none.",
    )
    memory_bytes: int | None = Field(
        None, description="With checkpoint.memory: bytes of it that were read in the memory of the nodes they are of."
    )
    peer_bytes: int | None = Field(
        None, description="With checkpoint.memory: bytes of it that were read in another node's memory."
    )
    volume_bytes: int | None = Field(
        None, description="With checkpoint.memory: bytes of it that were read on the volume, or in the object store."
    )


class FailureStatus(StatusModel):
    """One worker's failure, with the evidence."""

    time: str = Field(description="When the operator saw it.", json_schema_extra={"format": "date-time"})
    pod: str = Field(description="The pod.")
    node: str | None = Field(None, description="The node it ran on.")
    slot: int = Field(description="The worker's slot.")
    rank: int | None = Field(None, description="Global rank of the first failed process, where known.")
    attempt: int = Field(0, description="The attempt that it ended.")
    exit_code: int | None = Field(None, description="Exit status of the container; none if the pod vanished.")
    signal: int | None = Field(None, description="Signal that ended it, where the exit status tells.")
    round: int | None = Field(
        None, description="Of a hang that the agents healed in place: the round of the attempt that it ended."
    )
    cause: str = Field("", description="What it is laid to; docs/lifecycle.md has the table.")
    reason: str = Field(description="Why, in one word.")
    message: Annotated[str, Field(max_length=2048)] = Field("", description="Last words of the worker.")


class Nodes(StatusModel):
    """Workers ready and wanted."""

    ready: int = Field(0, description="Worker pods of the current generation that are ready.")
    desired: int = Field(0, description="Worker pods of the current generation.")


class Restarts(StatusModel):
    """Restarts by cause; recovery.budgets has the limit of each."""

    application: int = Field(0, description="The program failed.")
    out_of_memory: int = Field(0, description="Memory of the pod or of the accelerator was full.")
    accelerator: int = Field(0, description="A GPU or its driver failed.")
    communication: int = Field(0, description="A collective failed, or a peer, a store or a volume was out of reach.")
    hang: int = Field(0, description="No step for too long.")
    infrastructure: int = Field(0, description="The cluster took a pod; costs nothing unless a budget says so.")
    preempted: int = Field(0, description="A pod was told to end, and ended in good order; costs nothing.")
    aftermath: int = Field(0, description="The echo of a loss that is counted already; costs nothing.")
    resize: int = Field(0, description="Planned: the number of workers changed, or the job was resumed.")
    process: int = Field(0, description="Training processes restarted in place.")
    healed: int = Field(
        0, description="Hangs among those above that the agents healed in place, without a new attempt."
    )


class SettledHang(StatusModel):
    """A hang that the agents settled among themselves."""

    generation: Annotated[int, Field(ge=1)] = Field(description="The generation that it happened in.")
    round: Annotated[int, Field(ge=0)] = Field(description="The round that it ended.")


class Exclusion(StatusModel):
    """A node that new pods keep away from."""

    node: Annotated[str, Field(max_length=253)] = Field(description="Name of the node.")
    until: str = Field(description="When it may be used again.", json_schema_extra={"format": "date-time"})
    reason: str = Field("", description="Why it is avoided.")


class AppliedProfile(StatusModel):
    """The profile that the job was started with, as it was then."""

    name: Annotated[str, Field(max_length=253)] = Field(description="Name of the DeepSeekProfile.")
    uid: Annotated[str, Field(max_length=64)] = Field("", description="Its UID.")
    generation: int = Field(0, description="Its metadata.generation.")
    spec: dict[str, Any] = Field(
        default_factory=dict,
        description="What it said, kept so that a later change of it never changes this job.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )


class TrainingProgress(StatusModel):
    """What the training reported last."""

    phase: str = Field(
        "",
        description="starting, preparing, training, evaluating, checkpointing, finished, or waiting (for data that has yet to arrive).",
    )
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


class DataStatus(StatusModel):
    """What is trained on."""

    tokens: int = Field(description="Tokens of the prepared data.")
    documents: int = Field(description="Its documents.")
    quarantined: int = Field(0, description="Records that were left out, as data.onBadRecord: Quarantine allows.")
    examples: Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=5)] = Field(
        default_factory=list,
        description="The first of them: file, place and reason. All are in quarantine.jsonl of the token store.",
    )


class GoodputStatus(StatusModel):
    """Seconds of active time (not suspended, not queued) by what they were spent on."""

    productive: int = Field(0, description="Training steps whose result was kept.")
    startup: int = Field(0, description="From creation to the first step.")
    checkpoint: int = Field(0, description="Training stood still to save.")
    recovery: int = Field(0, description="From a fault to the next step.")
    stalled: int = Field(0, description="Pods ran without making steps.")
    waiting: int = Field(0, description="Waiting for pods, images, peers or data that has yet to arrive.")
    ratio: str | None = Field(None, description="Productive share of the active time.")


class RayStatus(StatusModel):
    """The head of the job's Ray cluster, counted before it is made."""

    head: Annotated[int, Field(ge=0)] = Field(0, description="Number of the head, a part of its pod's name.")
    seen: bool = Field(
        False, description="Its pod was seen: one that is missing was lost, and its successor gets another name."
    )
    since: str | None = Field(
        None,
        description="When it was asked for; absent while the job may have no pods.",
        json_schema_extra={"format": "date-time"},
    )
    restarts: Annotated[int, Field(ge=0)] = Field(
        0, description="Heads that were lost and replaced. They cost the job nothing."
    )
    unready: Annotated[int, Field(ge=0)] = Field(
        0, description="Heads in a row that were lost before they were ready: the next one is put off the longer."
    )


class Master(StatusModel):
    """The worker that hosts the store of the present generation."""

    slot: Annotated[int, Field(ge=0)] = Field(description="Slot of the worker.")
    address: Annotated[str, Field(max_length=253)] = Field(description="Its IP address, or its DNS name.")


class Status(StatusModel):
    """What is true about the job; written by the operator alone, once a pass."""

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
    replaced: Annotated[list[int], Field(max_length=4096)] = Field(
        default_factory=list,
        description="Slots whose pods are new in the present generation, as long as it is not launched: "
        "a missing pod of one of them is yet to be created.",
    )
    standby: Annotated[list[int], Field(max_length=4096)] = Field(
        default_factory=list,
        description="Slots whose pods were seen beside the present generation, waiting to join: one of them that is "
        "missing was lost, and its successor gets another name.",
    )
    renewed_at: str | None = Field(
        None,
        description="When a pod that waited to join was last replaced.",
        json_schema_extra={"format": "date-time"},
    )
    assembling_since: str | None = Field(
        None,
        description="When the present generation began, until all its workers were ready once; then absent. "
        "elastic.shrinkAfterSeconds is counted from here.",
        json_schema_extra={"format": "date-time"},
    )
    assembled_at: str | None = Field(
        None,
        description="When all workers of the present generation were ready. From here on they should have heard of it.",
        json_schema_extra={"format": "date-time"},
    )
    planned: bool = Field(
        False,
        description="The present generation was planned, and everybody was there: its members save before they join it, and so "
        "do those who leave.",
    )
    disruption_budget: bool = Field(
        False, description="The job has, or had, a lifecycle.maxUnavailable, and so it has a PodDisruptionBudget."
    )
    master: Master | None = Field(
        None, description="The worker that hosts the present generation's store, chosen before it is announced."
    )
    ray: RayStatus | None = Field(None, description="The job's Ray cluster, where it has data.ray.")
    nodes: Nodes = Field(default_factory=Nodes, description="Workers ready and wanted.")
    ready_nodes: str | None = Field(None, description="Ready and wanted workers as text, for the NODES column.")
    training: TrainingProgress | None = Field(None, description="What the training reported last.")
    data: DataStatus | None = Field(None, description="What is trained on, once it is prepared.")
    checkpoint: CheckpointStatus | None = Field(None, description="The newest committed checkpoint.")
    restored_from: RestoredFrom | None = Field(
        None, description="The checkpoint that the present attempt started from."
    )
    restarts: Restarts = Field(default_factory=Restarts, description="Restarts, by who caused them.")
    settled_hang: SettledHang | None = Field(
        None, description="The newest hang that the agents have settled and that is counted here."
    )
    total_restarts: int = Field(0, description="All restarts of workers, for the RESTARTS column.")
    fruitless_restarts: int = Field(
        0, description="Restarts in a row without a newer checkpoint; recovery.maxRestartsWithoutProgress is the limit."
    )
    progress_mark: int = Field(
        0, description="Newest committed step when fruitlessRestarts was last counted; a newer one sets it to 0."
    )
    excluded_nodes: Annotated[list[Exclusion], Field(max_length=64)] = Field(
        default_factory=list, description="Nodes that new pods keep away from, and until when."
    )
    failures: Annotated[list[FailureStatus], Field(max_length=10)] = Field(
        default_factory=list, description="The last failures, newest first."
    )
    goodput: GoodputStatus | None = Field(None, description="Where the time went.")
    earlier_goodput: GoodputStatus | None = Field(
        None, description="What the replaced pods of node rank 0 reported; their successor's report is added to it."
    )
    profile: AppliedProfile | None = Field(None, description="The profile that the job was started with.")
    ranks: Annotated[list[int], Field(max_length=4096)] = Field(
        default_factory=list,
        description="The workers' slots in the order of node ranks; empty: the first ones, in their own order (or not "
        "yet ordered by topology).",
    )
    selector: str = Field("", description="Label selector of the job's pods, for autoscalers.")
    stepped_at: str | None = Field(
        None,
        description="When the step was last seen to grow; a hang is counted from here.",
        json_schema_extra={"format": "date-time"},
    )
    unheard_since: str | None = Field(
        None,
        description="Since when node rank 0 doesn't answer; a hang is counted from here, too.",
        json_schema_extra={"format": "date-time"},
    )
    waiting_since: str | None = Field(
        None,
        description="When the job was created or resumed, until all its pods were ready once; then absent. The start "
        "deadline is counted from here.",
        json_schema_extra={"format": "date-time"},
    )
    active_since: str | None = Field(
        None,
        description="When the present run began; absent while the job may have no pods: suspended, queued or ended.",
        json_schema_extra={"format": "date-time"},
    )
    active_seconds: int = Field(0, description="Seconds of the runs before the present one.")
    start_time: str | None = Field(
        None, description="When the first pods were asked for.", json_schema_extra={"format": "date-time"}
    )
    completion_time: str | None = Field(
        None, description="When the job ended.", json_schema_extra={"format": "date-time"}
    )
