"""How a job is run: recovery, life cycle, elasticity, scheduling, communication, preflight.

Rule: every number has a unit in its name and a default that suits a job that nobody tuned. A field that a profile may
give has no default in the schema (see `workers`).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from deepseek_operator.api.fields import DnsName, Model, PriorityClass, Rule
from deepseek_operator.api.labels import LabelKey

Budget = Annotated[int, Field(ge=0, le=1_000_000)]
Seconds = Annotated[int, Field(ge=1, le=31_536_000)]


class Budgets(Model):
    """Restarts that each cause may spend in the life of the job. The causes are listed in docs/lifecycle.md."""

    application: Budget = Field(3, description="The program failed: an exception, or an exit status of its own.")
    out_of_memory: Budget = Field(
        1, description="The pod went over its memory limit, or the accelerator's memory was full."
    )
    accelerator: Budget = Field(5, description="A GPU or its driver failed: an XID, an ECC error, a crash in CUDA.")
    communication: Budget = Field(
        5, description="A collective failed or timed out, or a peer, a store or a volume could not be reached."
    )
    hang: Budget = Field(5, description="No step for too long; those that the agents healed count, too.")
    infrastructure: Budget | None = Field(
        None, description="The cluster took a pod: deletion, eviction, pre-emption, node loss. Default: no limit."
    )


class Backoff(Model):
    """The wait before a restart that follows another one without a new checkpoint in between; it doubles each time."""

    rules: ClassVar = (
        Rule(
            "self.initialSeconds <= self.maxSeconds",
            "initialSeconds is more than maxSeconds; lower it or raise maxSeconds",
            ".initialSeconds",
            holds=lambda backoff: backoff.initial_seconds <= backoff.max_seconds,
        ),
    )
    initial_seconds: Annotated[int, Field(ge=0, le=86400)] = Field(
        5, description="Before the second restart in a row; the first one follows at once."
    )
    max_seconds: Annotated[int, Field(ge=0, le=86400)] = Field(300, description="At most.")


class NodeExclusion(Model):
    """Keeping away from a node on which workers failed again and again."""

    failures: Annotated[int, Field(ge=1, le=100)] = Field(
        2, description="Failures of cause accelerator, communication or hang on one node after which it is avoided."
    )
    cooldown_seconds: Seconds = Field(3600, description="How long a failure counts, and a node is avoided.")


class Recovery(Model):
    """How often, and how, a job is tried again."""

    budgets: Budgets = Field(default_factory=Budgets, description="Restarts that each cause may spend.")
    max_process_restarts: Annotated[int, Field(ge=0, le=1000)] = Field(
        3, description="Restarts of crashed or hanging training processes inside living pods, in each generation."
    )
    max_restarts_without_progress: Annotated[int, Field(ge=1, le=1000)] = Field(
        5,
        description="Restarts in a row after which no newer checkpoint was committed; then the job fails as NoProgress. "
        "Counts where checkpoints are written, and pods that were lost before their first step don't count.",
    )
    backoff: Backoff = Field(default_factory=Backoff, description="The wait before a restart.")
    hang_timeout_seconds: Annotated[int, Field(ge=10, le=604800)] = Field(
        1800,
        description="Seconds without a step that are taken for a hang by the operator, and by the agents before the "
        "first steps of a start; in phases without steps they wait four times as long.",
    )
    hang_factor: Annotated[int, Field(ge=2, le=1000)] = Field(
        20,
        description="The agents take it for a hang when a step lasts longer than so many times the 99th percentile of the "
        "steps so far, and than hangFloorSeconds.",
    )
    hang_floor_seconds: Annotated[int, Field(ge=1, le=604800)] | None = Field(
        None,
        description="Seconds without a step that the agents never take for a hang. Default: 60 where ranks have a pulse, "
        "as the built-in trainer's; hangTimeoutSeconds for a script that only reports.",
    )
    prewarm: bool | None = Field(
        None,
        description="Keep a process in each pod that has imported torch, and fork training processes from it: a crashed "
        "one is back in a second. Costs up to 300 MB of memory a pod, and saves as much with each further process of a "
        "pod. Don't use it with code that opens CUDA or starts threads while it is imported. Default: true for the "
        "built-in trainer, false for a script.",
    )
    node_exclusion: NodeExclusion = Field(default_factory=NodeExclusion, description="Keeping away from bad nodes.")


class Elastic(Model):
    """Between how many workers the job may have while it runs."""

    rules: ClassVar = (
        Rule(
            "self.minReplicas <= self.maxReplicas",
            "minReplicas is more than maxReplicas; lower it or raise maxReplicas",
            ".minReplicas",
            holds=lambda elastic: elastic.min_replicas <= elastic.max_replicas,
        ),
    )
    min_replicas: Annotated[int, Field(ge=1, le=4096)] = Field(1, description="Fewest workers.")
    max_replicas: Annotated[int, Field(ge=1, le=4096)] = Field(description="Most workers.")
    shrink_after_seconds: Annotated[int, Field(ge=0, le=604_800)] | None = Field(
        None,
        description="Seconds after which a generation that lacks workers goes on with those that are ready, minReplicas at "
        "least; the others join later. Default: never, it waits for all.",
    )
    grow_policy: Literal["WhenReady", "OnRestart"] = Field(
        "WhenReady",
        description="When workers that have become ready join: WhenReady (as soon as they are, without losing a step) or "
        "OnRestart (they wait until the workers start anew for another reason).",
    )


class Lifecycle(Model):
    """When a job is given up, what is left of it, and when it goes."""

    active_deadline_seconds: Seconds | None = Field(
        None,
        description="Most seconds that the job may have pods, over all its runs: time spent suspended or queued doesn't "
        "count, and resuming doesn't start it anew. Default: the profile's, else none.",
    )
    start_deadline_seconds: Seconds | None = Field(
        None,
        description="Most seconds from the creation (or the resumption) until all pods were ready once. Default: the "
        "profile's, else none.",
    )
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = Field(
        None, description="Seconds after which a finished job is deleted. Default: the profile's, else never."
    )
    clean_pod_policy: Literal["Running", "All"] | None = Field(
        None,
        description="Pods that are deleted when the job ends: Running (the others stay for their logs) or All. Default: "
        "the profile's, else Running.",
    )
    max_unavailable: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None,
        description="Workers that drains may take at a time: a PodDisruptionBudget. Default: none, for a drain costs no step, "
        "and one that takes all workers of a node at once interrupts the job only once. Set 1 where saves are slow or nodes "
        "for replacements scarce. It doesn't hold back deletions or what happens to nodes.",
    )
    success_policy: Literal["AllWorkers", "RankZero"] = Field(
        "AllWorkers",
        description="Who must end with exit status 0: all workers, or node rank 0 (the others are then stopped).",
    )


class Topology(Model):
    """Keeping the workers near each other."""

    key: LabelKey = Field(
        description="Label of nodes whose equal values mean a near network, for example topology.kubernetes.io/zone."
    )
    mode: Literal["Required", "Preferred"] = Field(
        "Preferred", description="Whether the workers must share one value, or should."
    )


class Scheduling(Model):
    """How the gang gets its nodes."""

    rules: ClassVar = (
        Rule(
            "!has(self.gang) || self.gang != 'Kueue' || has(self.queue)",
            "gang Kueue needs queue: the name of a LocalQueue of the namespace",
            ".queue",
            holds=lambda scheduling: scheduling.gang != "Kueue" or scheduling.queue is not None,
        ),
        Rule(
            "!has(self.queue) || !has(self.gang) || self.gang in ['Kueue', 'Volcano']",
            "queue is Kueue's or Volcano's; set gang to one of them, or remove queue",
            ".queue",
            holds=lambda scheduling: scheduling.queue is None or scheduling.gang in (None, "Kueue", "Volcano"),
        ),
    )
    gang: Literal["None", "Kueue", "Volcano", "Coscheduling"] | None = Field(
        None,
        description="Who sees to it that all workers start together: Kueue (quota and queues), Volcano or Coscheduling "
        "(a PodGroup for that scheduler), or None. Default: the profile's, else None.",
    )
    queue: DnsName | None = Field(
        None, description="LocalQueue (Kueue) or Queue (Volcano) that the job waits in. Default: the profile's."
    )
    priority_class_name: PriorityClass | None = Field(
        None,
        description="WorkloadPriorityClass (Kueue) or PriorityClass (Volcano) of the gang in its queue. Default: the "
        "profile's, else workers.priorityClassName.",
    )
    scheduler_name: DnsName | None = Field(
        None, description="Scheduler of the pods. Default: the profile's, else the one that belongs to gang."
    )
    spares: Annotated[int, Field(ge=0, le=64)] | None = Field(
        None,
        description="Pods beside the workers that wait, with their image pulled and their agent up: one takes the place of "
        "a lost worker at once. They ask for the same resources. Default: the profile's, else 0.",
    )
    topology: Topology | None = Field(
        None, description="Keeping the workers near each other, with node ranks in that order. Default: the profile's."
    )


class Communication(Model):
    """Collectives' network, as typed fields that become environment variables of NCCL, gloo and torch."""

    interface: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[\^=]{0,2}[A-Za-z0-9_.,-]+$")] | None = (
        Field(
            None,
            description="Network interface, or a prefix as NCCL takes it: eth0, =bond0, ^docker. Becomes "
            "NCCL_SOCKET_IFNAME, and GLOO_SOCKET_IFNAME where it is a plain name. Default: the profile's, else found.",
        )
    )
    infiniband: bool | None = Field(
        None,
        description="false keeps NCCL off InfiniBand and RoCE (NCCL_IB_DISABLE=1). Default: the profile's, else true.",
    )
    ib_hca: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[\^=]{0,2}[A-Za-z0-9_.,:-]+$")] | None = (
        Field(
            None,
            description="InfiniBand adapters: mlx5_0:1,mlx5_1:1. Becomes NCCL_IB_HCA. Default: the profile's, else all.",
        )
    )
    ib_gid_index: Annotated[int, Field(ge=0, le=255)] | None = Field(
        None, description="GID index for RoCE. Becomes NCCL_IB_GID_INDEX. Default: the profile's, else NCCL's."
    )
    ib_timeout: Annotated[int, Field(ge=1, le=31)] | None = Field(
        None,
        description="InfiniBand verbs timeout: 4.096 µs times 2 to this power. Becomes NCCL_IB_TIMEOUT. Default: the "
        "profile's, else NCCL's.",
    )
    debug: Literal["VERSION", "WARN", "INFO", "TRACE"] | None = Field(
        None, description="How much NCCL logs. Becomes NCCL_DEBUG. Default: the profile's, else WARN."
    )
    timeout_seconds: Annotated[int, Field(ge=10, le=86400)] | None = Field(
        None,
        description="A collective that takes longer has failed. The built-in trainer takes it for its process group; "
        "scripts find it in DEEPSEEKJOB_COLLECTIVE_TIMEOUT_S. Default: the profile's, else 600.",
    )


class Preflight(Model):
    """A check of the gang before the first step: every node takes part in all-reduces, and their bandwidth is logged.

    A node that doesn't answer, or is too slow, is named in status.failures and avoided.
    """

    timeout_seconds: Annotated[int, Field(ge=5, le=3600)] = Field(
        120, description="A node that has not finished by then has failed the check."
    )
    min_bandwidth_mbps: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(
        None, description="Megabits a second that each pair of nodes must reach. Default: any speed will do."
    )
