"""The JSON shapes of the contract: what operator, agent and trainer tell one another."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from deepseek_trainer.contract.names import (
    MASTER_PORT,
)


class _Message(BaseModel):
    """Frozen, camelCase on the wire, and tolerant of fields from a newer peer."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class Membership(_Message):
    """One pod's part in a generation: the content of the membership annotation and file."""

    generation: Annotated[int, Field(ge=1)]
    attempt: Annotated[int, Field(ge=1)]
    node_rank: Annotated[int, Field(ge=0)]
    nodes: Annotated[int, Field(ge=1)]
    master: str
    """IP address or DNS name of the pod that hosts this generation's store."""
    port: Annotated[int, Field(ge=1, le=65535)] = MASTER_PORT
    host: bool = False
    """True for the one member that hosts the store. It need not be node rank 0."""
    planned: bool = False
    """Nobody was lost: training processes finish their step and save before they move to this generation."""


class CheckpointInfo(_Message):
    """The newest committed checkpoint, as the trainer knows it."""

    step: int
    time: str
    """RFC 3339, UTC."""
    path: str
    bytes: int
    seconds: float
    """Wall seconds that the save took, from its step to its commit."""
    blocked_seconds: float | None = None
    """Of these, those in which no step was made; None: not told."""
    interval_seconds: float | None = None
    """Seconds from this save to the next one, where a clock says when; else None."""
    verified: bool | None = None
    """Whether it was read again from the volume and found whole; None: not told."""


class RestoredBytes(_Message):
    """Where the bytes of a checkpoint were that training went on from; together they are all of it."""

    memory: int = 0
    """In memory of the node that looks after them."""
    peer: int = 0
    """In another node's."""
    volume: int = 0
    """On the volume, or in the object store."""


class CheckpointFailure(_Message):
    """Saves that failed, one after the other; gone when one succeeds."""

    step: int
    """Of the last one."""
    time: str
    """RFC 3339, UTC."""
    failures: int
    """In a row."""
    message: str = ""
    """Of the last one; CHECKPOINT_MESSAGE_LENGTH characters at most."""


class Goodput(_Message):
    """Seconds of this agent's life by what they were spent on; they sum to its wall clock."""

    productive: float = 0.0
    startup: float = 0.0
    checkpoint: float = 0.0
    recovery: float = 0.0
    stalled: float = 0.0
    waiting: float = 0.0


class Failure(_Message):
    """Why this pod ended: its first failed training process, or what the agents found out about the gang."""

    kind: Literal["preflight", "hang"] | None = None
    """preflight: the check before the first step failed (exit status 71); hang: a training process made no steps, and may
    not be started again in place; None: a training process failed, or the agent."""
    nodes: tuple[str, ...] | None = None
    """With kind preflight: names of the Kubernetes nodes to be avoided, 16 at most; empty when none stands out."""
    rank: int | None = None
    exit_code: int | None = None
    signal: str | None = None
    message: str = ""
    """The exception with its type, or the last lines that the process printed; 1 KB at most, its end is kept."""


HangReason = Literal["frozen", "silent", "behind"]
"""frozen: the rank's process is stopped or can't be woken; silent: the pod's agent doesn't answer its peers; behind: the
rank has not done what all others wait for."""


class Hang(_Message):
    """A standstill that the agents found and settled among themselves."""

    generation: int
    round: int
    """The round that it ended; with the generation this is its identity."""
    reason: HangReason | None = None
    """None: nobody stands out."""
    rank: int | None = None
    pod: str = ""
    node: str = ""
    step: int | None = None
    """Steps that were done when training stopped."""
    seconds: float = 0.0
    """How long nothing moved before the agents acted."""
    stacks: str = ""
    """Folder in which every rank's stacks are."""


HANGS_MAX = 8
"""Hangs that an agent remembers, the newest ones."""


class Data(_Message):
    """What is trained on, once it is prepared."""

    tokens: int
    documents: int
    quarantined: int = 0
    """Records that were left out, as `spec.data.onBadRecord` allows."""
    examples: tuple[str, ...] = ()
    """The first of them, QUARANTINED_SHOWN at most: file, place and reason, QUARANTINED_LENGTH characters each at most."""


class Experts(_Message):
    """How the tokens of the last step were spread over the experts of a mixture."""

    max_violation: float
    """Tokens of the fullest expert of the worst layer over the mean of its experts, less 1; 0 is an even spread."""
    shares: tuple[float, ...] = ()
    """Of each expert, over all layers, as a multiple of an equal share."""
    dropped: float = 0.0
    """Share of the assignments that were beyond the experts' capacity."""


class StepSeconds(_Message):
    """What the seconds of rank 0's last measured step went to; None: not measured. On a GPU one step in 64 is."""

    data: float | None = None
    """Waiting for its data."""
    forward: float | None = None
    backward: float | None = None
    optimizer: float | None = None
    waiting: float | None = None
    """For other ranks, in collectives; in none of the others."""


class Memory(_Message):
    """Bytes of rank 0; None: there is no such memory."""

    resident: int | None = None
    """On the host, at this moment."""
    allocated: int | None = None
    """On its GPU, the most that tensors had since the process began."""
    reserved: int | None = None
    """On its GPU, the most that the allocator held for them."""


Phase = Literal["starting", "preparing", "training", "evaluating", "checkpointing", "finished", "waiting"]
"""What a training process does; steps are made while it is training. waiting: for data that has yet to arrive."""


class Report(_Message):
    """What the training process of global rank 0 writes to `PROGRESS_FILE` (atomically, at most once a second).

    User scripts may write it too; every field is optional.
    """

    phase: Phase = "starting"
    step: int | None = None
    total_steps: int | None = None
    epoch: int | None = None
    position: int | None = None
    """Samples consumed since the start of the data: the ledger's cursor."""
    chain: str | None = None
    """Hash chain over the consumed batches, hex."""
    loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    """Of the last step's gradient over all ranks, before it was clipped; None where it was no number."""
    skipped_steps: int | None = None
    """Of the job, steps that left the weights as they were: their samples count as consumed."""
    validation_loss: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    """Share of the devices' peak that the model's own operations are; None: not known, as on a CPU."""
    eta_seconds: float | None = None
    data_wait: float | None = None
    """Share of the last steps' time in which rank 0 waited for its data."""
    step_seconds: StepSeconds | None = None
    memory: Memory | None = None
    checkpoint: CheckpointInfo | None = None
    checkpoint_failure: CheckpointFailure | None = None
    """What is wrong with saving; None: nothing."""
    resumed_step: int | None = None
    """The step of the checkpoint that this process started from; None when from scratch."""
    resumed_from: str | None = None
    restored_bytes: RestoredBytes | None = None
    """None: not told, as where no checkpoint is kept in memory."""
    passed_over: tuple[str, ...] | None = None
    """Newer checkpoints that were refused at the start, each with the reason; the newest `PASSED_OVER_MAX` of them."""
    unigram_entropy: float | None = None
    """Entropy of the corpus' token distribution, nats per token: the loss of a model that ignores context."""
    goodput: Goodput | None = None
    data: Data | None = None
    experts: Experts | None = None


class Silence(_Message):
    """Who gives no sign of life: a hint to look closer, no verdict."""

    generation: int
    """That the node ranks are of; the agent may still wait for its first round in it."""
    nodes: tuple[int, ...] = ()
    """Node ranks, SILENT_MAX at most."""
    store: bool = False
    """The host of the generation's store can't be reached."""


class Straggler(_Message):
    """A rank for which the others wait: its own work in a step is persistently above the median of all ranks."""

    rank: int
    pod: str
    node: str = ""
    """Kubernetes' name of its node; empty where it is not known."""
    busy_seconds: float
    """Its own work in a step."""
    median_seconds: float
    """The median rank's; the others wait for the difference."""
    step_seconds: float
    """Wall seconds of a step."""


class Progress(Report):
    """The answer of the agent's `/progress`, and the last words in the termination log (then with `failure`)."""

    version: Literal[1] = 1
    job: str = ""
    pod: str = ""
    generation: int = 0
    attempt: int = 0
    round: int = 0
    """Restarts among the agents within this generation."""
    node_rank: int | None = None
    process_restarts: int = 0
    """In-place restarts of training processes seen by this agent since it started."""
    time: str = ""
    hangs: tuple[Hang, ...] = ()
    """The last ones that this agent took part in, oldest first; HANGS_MAX at most."""
    silence: Silence | None = None
    """Of node rank 0: who of the gang gives no sign of life, if anybody."""
    news: int = 0
    """Counted up when the round, the silent ones or the hangs change. `/progress?wait=S&seen=N` answers when it is not N any more, or
    after S seconds."""
    failure: Failure | None = None
    stragglers: tuple[Straggler, ...] | None = None
    """Of node rank 0: the ranks that are slower than the others, the costliest `STRAGGLERS_MAX`; None: not known."""
