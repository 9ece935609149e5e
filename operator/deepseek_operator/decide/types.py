"""What is observed and what is planned: frozen values, the only things that cross decide()'s border.

    observe(world) -> Observation        reads, once
    decide(Observation) -> Plan          pure
    apply(Plan) -> world                 writes: status first (the intent), then children, then Events

A Plan's status is written before any of its effects. Because every effect is derived from what the status
says (attempt, generation, incarnations) and has a deterministic name, stopping between any two writes and
deciding again ends in the same state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NewType

from deepseek_operator.api.v1alpha1 import AppliedProfile, DeepSeekJob, Status
from deepseek_operator.render.kueue import Placement

Manifest = dict[str, Any]
"""A Kubernetes object as the API server takes it."""
PodName = NewType("PodName", str)


@dataclass(frozen=True, slots=True)
class Pod:
    """A worker pod as the API server (or the local adapter) has it, stripped to what is decided by."""

    name: str
    uid: str
    slot: int
    incarnation: int
    phase: Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]
    ready: bool = False
    terminating: bool = False
    ip: str | None = None
    node: str | None = None
    host_ip: str | None = None
    """Address of its node."""
    membership: str | None = None
    """The membership annotation as it is, raw JSON."""
    reminder: str = ""
    """The reminder annotation as it is."""
    exit_code: int | None = None
    """Exit status of the worker container, once it ended."""
    reason: str = ""
    """Why it waits or ended: ImagePullBackOff, Unschedulable, OOMKilled, Evicted, Error …"""
    message: str = ""
    """Text behind reason; for an ended container its termination message (JSON of the trainer's Progress)."""
    container: str = ""
    """The init container or sidecar that exit_code, reason and message are about; empty: the worker, or the pod."""
    disrupted: bool = False
    """The cluster took it: DisruptionTarget condition, eviction, node shutdown."""
    gone_by: datetime | None = None
    """When a terminating pod must be gone, its grace included."""
    node_lost: bool = False
    """Its node is proven to be lost; only asked for pods that are long overdue."""
    raylet: bool | None = None
    """A raylet runs beside the worker; None: there shall be none."""
    unreachable: bool = False
    """Its node is lost, as far as anybody can tell: nothing is to be expected of it any more."""


@dataclass(frozen=True, slots=True)
class SettledHang:
    """A standstill that the agents settled among themselves; field names are those of `deepseek_trainer.contract.Hang`."""

    generation: int
    round: int
    reason: str | None = None
    """frozen, silent or behind; None: nobody stands out."""
    rank: int | None = None
    pod: str = ""
    step: int | None = None
    seconds: float = 0.0
    stacks: str = ""


@dataclass(frozen=True, slots=True)
class Silence:
    """Who of a gang gives no sign of life, as node rank 0 hears it; field names are those of the contract."""

    generation: int
    nodes: tuple[int, ...] = ()
    store: bool = False


@dataclass(frozen=True, slots=True)
class Straggler:
    """A rank that is persistently slower than the others, as node rank 0's agent finds. Seconds are those of a step."""

    rank: int
    pod: str
    node: str
    """Empty where it is not known."""
    busy_seconds: float
    """Its own work."""
    median_seconds: float
    """The median rank's own work: the others wait for the difference."""
    step_seconds: float


@dataclass(frozen=True, slots=True)
class CheckpointFailure:
    """Saves that failed, one after the other; field names are those of the contract."""

    step: int
    """Of the last one."""
    time: str
    failures: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class Data:
    """What a job trains on, and what was left out of it."""

    tokens: int
    documents: int
    quarantined: int = 0
    examples: tuple[str, ...] = ()
    """The first that were left out: file, place and reason."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What the agent of a worker said at `/progress`, or last in its termination message; already validated.

    Field names and units are those of `deepseek_trainer.contract.Progress`.
    """

    generation: int = 0
    attempt: int = 0
    round: int = 0
    phase: str = ""
    step: int | None = None
    total_steps: int | None = None
    epoch: int | None = None
    position: int | None = None
    chain: str | None = None
    loss: float | None = None
    validation_loss: float | None = None
    unigram_entropy: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    checkpoint: dict[str, Any] | None = None
    """{step, time, path, bytes, seconds, blocked_seconds} of the newest committed checkpoint."""
    checkpoint_failure: CheckpointFailure | None = None
    """What is wrong with saving; None: nothing."""
    resumed_step: int | None = None
    resumed_from: str | None = None
    restored_bytes: dict[str, int] | None = None
    """{memory, peer, volume}: where the checkpoint was read; None: not told."""
    passed_over: tuple[str, ...] | None = None
    """Newer checkpoints that the start has refused, each with the reason."""
    process_restarts: int = 0
    goodput: dict[str, float] | None = None
    hangs: tuple[SettledHang, ...] = ()
    """Oldest first, each once."""
    silence: Silence | None = None
    news: int = 0
    failure: dict[str, Any] | None = None
    data: Data | None = None
    """None: not prepared yet."""
    stragglers: tuple[Straggler, ...] | None = None
    """Ranks that are slower than the others; None: that is not known."""


@dataclass(frozen=True, slots=True)
class Held:
    """Why a job may not be started (or resumed, or grow), though nothing has failed. Somebody can mend it."""

    reason: str
    message: str
    """Names what is wrong, and what to do."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A PersistentVolumeClaim, stripped to what is decided by."""

    name: str
    uid: str
    version: str
    """Its resourceVersion: a change is written only to the version that was read."""
    asked_modes: tuple[str, ...]
    """Access modes that it asks for."""
    access_modes: tuple[str, ...]
    """What pods can do with it: these and, once it is bound, its volume's."""
    size: str = "0"
    """What it asks for."""
    storage_class: str = ""
    bound: bool = True
    terminating: bool = False
    made_for: str | None = None
    """Name of the job that the operator made it for, by its labels; None: somebody else made it."""
    owners: tuple[Mapping[str, Any], ...] = ()
    """All of its owner references, as they are."""
    owner: str | None = None
    """UID of the DeepSeekJob that it is deleted with; None: it stays."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What Kueue says of the job's Workload, stripped to what is decided by."""

    name: str
    uid: str
    version: str
    """Its resourceVersion: a status is written only to the version that was read."""
    pods: int
    """For how many workers it asks."""
    active: bool = True
    """False: somebody keeps it from being admitted (spec.active)."""
    reserved: bool = False
    """It holds quota, admitted or not."""
    admitted: bool = False
    finished: bool = False
    evicted: str = ""
    """Reason of an eviction that is not over; empty when there is none."""
    message: str = ""
    """Why it waits or was evicted, in Kueue's words."""
    conditions: tuple[Mapping[str, Any], ...] = ()
    """As they are."""
    placement: Placement = field(default_factory=Placement)
    head_placement: Placement = field(default_factory=Placement)
    """The same for the Ray head."""


@dataclass(frozen=True, slots=True)
class Queue:
    """What is known of the job's place in Kueue."""

    workload: Workload | None = None
    problem: str = ""
    """Why it can't ask for quota, and the remedy; empty: it can."""
    priority: int | None = None
    """The value of its priority class, where a Workload is still to be made and names one."""


@dataclass(frozen=True, slots=True)
class Consulted:
    """What a second agent said."""

    pod: str
    report: Progress | None = None
    silent: bool = False
    """It was asked, and the last time it gave no report."""


@dataclass(frozen=True, slots=True)
class RayChildren:
    """What there is of a job's Ray cluster beside pods, as far as it is known."""

    secret: bool = False
    """The token was made. Nobody looks: one that is made again is the same."""
    policy: bool = False
    service_head: int | None = None
    """Number of the head that the Service points at; None: there is no Service."""


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything that decide() may know about one job at one moment."""

    now: datetime
    """Aware, UTC."""
    job: DeepSeekJob
    """With its resolved spec: see `effective`."""
    pods: tuple[Pod, ...] = ()
    """All pods that carry the job's UID, of any slot and incarnation, terminating ones included."""
    service_exists: bool = False
    heads: tuple[Pod, ...] = ()
    """All pods of the job's Ray head, terminating ones included; their incarnation is the number of the head."""
    ray: RayChildren = field(default_factory=RayChildren)
    group_members: int | None = None
    """minMember of the job's PodGroup; None: there is none."""
    max_unavailable: int | str | None = None
    """Of the job's PodDisruptionBudget; None: there is none."""
    queue: Queue | None = None
    """Kueue's side of it; None: the job asks for no queue, or there is none (local mode)."""
    nodes: Mapping[str, str | None] = field(default_factory=dict)
    """Value of the topology's label on the nodes of a gang that waits for its node ranks; None: no such label, or no
    such node."""
    progress: Progress | None = None
    """The newest report of node rank 0; None when it could not be had."""
    unanswered: bool = False
    """Node rank 0 was asked for its report, and the last time it gave none."""
    consulted: Consulted | None = None
    """A second agent that was asked, where node rank 0 doesn't answer or says that another one doesn't."""
    profile: AppliedProfile | None = None
    """The profile that the spec was resolved with."""
    held: Held | None = None
    claims: Mapping[str, Claim | None] | None = None
    """Claims that were looked at, by name; None as a value: there is no such claim. None for all: they are
    folders (local mode)."""


@dataclass(frozen=True, slots=True)
class PatchClaim:
    """Change a claim; refused by the API server when it is not of that version any more."""

    name: str
    uid: str
    version: str
    owners: tuple[Mapping[str, Any], ...] | None = None
    """All owner references from now on; None: as they are."""
    size: str | None = None
    """What it asks for from now on; None: as it is."""


@dataclass(frozen=True, slots=True)
class PatchPod:
    """Write a pod's annotations; refused by the API server when the UID has changed."""

    name: str
    uid: str
    annotations: dict[str, str]


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Delete one pod, and no other of the same name."""

    name: str
    uid: str
    force: bool = False
    """Without waiting for its node, which is lost."""


@dataclass(frozen=True, slots=True)
class PatchWorkload:
    """Write a part of a Workload's status; refused by the API server when it is not of that version any more."""

    name: str
    version: str
    status: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DeleteWorkload:
    """Delete one Workload, and with it its place in the queue."""

    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes Event about the job."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done: written in this order, each part only after the one before it."""

    status: Status
    """The whole status; written first, and only when it differs from the observed one."""
    create: tuple[Manifest, ...] = ()
    patch: tuple[PatchPod, ...] = ()
    delete: tuple[DeletePod, ...] = ()
    quota: PatchWorkload | DeleteWorkload | None = None
    """What becomes of the job's quota, now that no pod needs it."""
    claim: PatchClaim | None = None
    delete_job: bool = False
    """The job itself has outlived its time: it is deleted, and Kubernetes collects its children."""
    events: tuple[Event, ...] = field(default=())
    requeue_after_s: float | None = None
    """Look again after this many seconds though nothing happened; None: the next event or resync will do."""

    @property
    def has_effects(self) -> bool:
        """Whether anything but status and Events is to be written."""
        return bool(self.create or self.patch or self.delete or self.quota or self.claim or self.delete_job)
