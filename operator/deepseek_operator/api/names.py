"""Every name that crosses a boundary: API group, labels, annotations, environment, paths, exit codes, reasons.

The worker's side of the same contract is `deepseek_trainer.contract`; tests/contract proves that they agree.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

GROUP = "training.deepseekjob.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "DeepSeekJob"
PLURAL = "deepseekjobs"
SHORT_NAME = "dsj"
PROFILE_KIND = "DeepSeekProfile"
PROFILE_PLURAL = "deepseekprofiles"
PROFILE_SHORT_NAME = "dsp"

MANAGER = "deepseek-operator"
"""Field manager of server-side apply, and the value of app.kubernetes.io/managed-by."""
MANAGED_BY_US = f"{GROUP}/{MANAGER}"
"""spec.managedBy of a job that is ours though it says so; one with any other value is left alone."""

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_JOB_NAME = f"{GROUP}/job-name"
LABEL_JOB_UID = f"{GROUP}/job-uid"
LABEL_SLOT = f"{GROUP}/slot"
LABEL_INCARNATION = f"{GROUP}/incarnation"

LABEL_RAY = f"{GROUP}/ray-cluster"
"""UID of the job, on all pods of its Ray cluster: the workers, and the head."""
LABEL_RAY_HEAD = f"{GROUP}/ray-head"
"""How often the head was replaced; on the head's pod, which has neither the job's UID nor a slot on its labels: what selects
the workers must not find it."""

ANNOTATION_MEMBERSHIP = f"{GROUP}/membership"
"""JSON of the pod's part in the current generation; the pod sees it as a file through the downward API."""
ANNOTATION_REMINDER = f"{GROUP}/reminder"
"""Means nothing: a change of it makes the kubelet renew the membership file."""
ANNOTATION_RUN_CONFIG = f"{GROUP}/run-config"
"""JSON of the trainer's run config; the pod sees it as a file through the downward API."""

CONTAINER = "worker"
RAY_CONTAINER = "ray"
"""The raylet in a worker's pod, and the head in its own."""
AGENT_PORT = 8471
MASTER_PORT = 29500
MAX_JOB_NAME = 45
"""`<job>-worker-<slot>-<incarnation>` must stay within 63 characters."""
PROGRESS_MAX_BYTES = 65536
STRAGGLERS_MAX = 16
"""Slow ranks in a report."""
CHECKPOINT_MESSAGE_LENGTH = 512
"""Of why a checkpoint could not be saved."""
QUARANTINED_SHOWN = 5
QUARANTINED_LENGTH = 160
"""Of the records that were left out of the data: how many a report names, and how long each may be."""


class Env:
    """Environment variables of a worker pod."""

    JOB_NAME = "DEEPSEEKJOB_NAME"
    JOB_NAMESPACE = "DEEPSEEKJOB_NAMESPACE"
    JOB_UID = "DEEPSEEKJOB_UID"
    POD_NAME = "DEEPSEEKJOB_POD_NAME"
    POD_IP = "DEEPSEEKJOB_POD_IP"
    NODE_NAME = "DEEPSEEKJOB_NODE_NAME"
    MEMBERSHIP_FILE = "DEEPSEEKJOB_MEMBERSHIP_FILE"
    RUN_CONFIG_FILE = "DEEPSEEKJOB_RUN_CONFIG_FILE"
    RUN_DIR = "DEEPSEEKJOB_RUN_DIR"
    CHECKPOINT_DIR = "DEEPSEEKJOB_CHECKPOINT_DIR"
    PROC_PER_NODE = "DEEPSEEKJOB_PROC_PER_NODE"
    BACKEND = "DEEPSEEKJOB_BACKEND"
    MAX_PROCESS_RESTARTS = "DEEPSEEKJOB_MAX_PROCESS_RESTARTS"
    AGENT_PORT = "DEEPSEEKJOB_AGENT_PORT"
    TERMINATION_LOG = "DEEPSEEKJOB_TERMINATION_LOG"
    TERMINATION_GRACE = "DEEPSEEKJOB_TERMINATION_GRACE_S"
    PREWARM = "DEEPSEEKJOB_PREWARM"
    COLLECTIVE_TIMEOUT = "DEEPSEEKJOB_COLLECTIVE_TIMEOUT_S"
    PREFLIGHT_TIMEOUT = "DEEPSEEKJOB_PREFLIGHT_TIMEOUT_S"
    PREFLIGHT_MIN_MBPS = "DEEPSEEKJOB_PREFLIGHT_MIN_MBPS"
    HANG_TIMEOUT = "DEEPSEEKJOB_HANG_TIMEOUT_S"
    HANG_FACTOR = "DEEPSEEKJOB_HANG_FACTOR"
    HANG_FLOOR = "DEEPSEEKJOB_HANG_FLOOR_S"
    RAY_HEAD = "DEEPSEEKJOB_RAY_HEAD"
    RAY_OBJECT_STORE = "DEEPSEEKJOB_RAY_OBJECT_STORE_BYTES"
    RAY_CPUS = "DEEPSEEKJOB_RAY_CPUS"


class Paths:
    """Where things are inside a worker pod."""

    CONFIG_DIR = "/etc/deepseekjob"
    MEMBERSHIP_FILE = "/etc/deepseekjob/membership.json"
    RUN_CONFIG_FILE = "/etc/deepseekjob/run-config.json"
    RUN_DIR = "/run/deepseekjob"
    RAY_DIR = "/var/run/deepseekjob"
    CHECKPOINTS = "/checkpoints"
    RESUME_FROM = "/resume-from"
    """Another claim, with the checkpoint that the job begins with."""
    TERMINATION_LOG = "/dev/termination-log"
    MEMORY = "/var/run/deepseekjob/memory"
    """Of the kind of a RAM disk, with checkpoint.memory."""
    RAY_TOKEN = "/var/run/deepseekjob/ray/token"  # noqa: S105 - where it is


class RayPorts:
    """Where the parts of Ray listen in the head's and the workers' pods, with data.ray; pairs are first and last."""

    GCS = 6379
    """The head's table of the cluster."""
    NODE_MANAGER = 6380
    OBJECT_MANAGER = 6381
    AGENTS = (6382, 6399)
    WORKERS = (20000, 20999)


class ExitCode(IntEnum):
    """Exit status of the worker's container."""

    SUCCESS = 0
    USER_ERROR = 1
    DATA_ERROR = 65
    UNAVAILABLE = 69
    PREFLIGHT = 71
    PREEMPTED = 75
    CONFIG_ERROR = 78


class Cause(StrEnum):
    """What a lost worker is laid to; status.failures[].cause. docs/lifecycle.md has the table of evidence and answers."""

    CONFIG = "Config"
    DATA = "Data"
    APPLICATION = "Application"
    OUT_OF_MEMORY = "OutOfMemory"
    ACCELERATOR = "Accelerator"
    COMMUNICATION = "Communication"
    HANG = "Hang"
    INFRASTRUCTURE = "Infrastructure"
    PREEMPTED = "Preempted"
    AFTERMATH = "Aftermath"
    """The echo of a loss that is counted already."""


class State(StrEnum):
    """One word for people: a pure fold of the conditions."""

    PENDING = "Pending"
    QUEUED = "Queued"
    STARTING = "Starting"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class ConditionType(StrEnum):
    """Conditions that are always present in status. Reconciling and Stalled are kstatus' own vocabulary."""

    ADMITTED = "Admitted"
    """A queue has let the job in; True where there is none to wait in."""
    SUSPENDED = "Suspended"
    """spec.suspend holds, and none of its pods runs any more."""
    PODS_READY = "PodsReady"
    """Every worker pod of the current generation runs and is ready."""
    RUNNING = "Running"
    """Training makes steps."""
    CHECKPOINTED = "Checkpointed"
    """At least one committed checkpoint exists to resume from."""
    CHECKPOINT_FAILED = "CheckpointFailed"
    """The last checkpoints could not be saved; training goes on without, as checkpoint.onFailure allows."""
    VOLUME_USABLE = "VolumeUsable"
    """The claim for checkpoints is the job's to use, and all of its workers can share it."""
    RESTARTING = "Restarting"
    """The job is on its way back to a checkpoint."""
    STRAGGLING = "Straggling"
    """Ranks are persistently slower than the others, who wait for them in each step. Nothing follows from it."""
    RAY_READY = "RayReady"
    """The head of the job's Ray cluster is ready, and a raylet runs beside each worker. Nothing follows from it."""
    COMPLETE = "Complete"
    """Terminal: every worker ended with exit status 0, or the one that lifecycle.successPolicy asks for."""
    FAILED = "Failed"
    """Terminal: the job won't be tried again; the reason says why."""
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class Reason(StrEnum):
    """Reasons of conditions and Events."""

    NOT_STARTED = "NotStarted"
    WAITING_FOR_PODS = "WaitingForPods"
    IMAGE_PULL = "ImagePullError"
    ALL_READY = "AllReady"
    STARTING = "Starting"
    TRAINING = "Training"
    WORKER_LOST = "WorkerLost"
    WORKER_FAILED = "WorkerFailed"
    NO_CHECKPOINT = "NoCheckpoint"
    CHECKPOINT_COMMITTED = "CheckpointCommitted"
    NOT_SAVED = "NotSaved"
    RESUMED = "Resumed"
    RESUMING = "Resuming"
    ALL_WORKERS_SUCCEEDED = "AllWorkersSucceeded"
    RANK_ZERO_SUCCEEDED = "RankZeroSucceeded"
    RESTART_LIMIT = "RestartLimitExceeded"
    NO_PROGRESS = "NoProgress"
    HANG = "Hang"
    NODE_EXCLUDED = "NodeExcluded"
    PREFLIGHT_FAILED = "PreflightFailed"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    START_DEADLINE_EXCEEDED = "StartDeadlineExceeded"
    SUSPENDED = "Suspended"
    SUSPENDING = "Suspending"
    RESIZED = "Resized"
    PROFILE_NOT_FOUND = "ProfileNotFound"
    PROFILE_LIMIT = "ProfileLimitExceeded"
    PROFILE_UNUSABLE = "ProfileUnusable"
    NOT_QUEUED = "NotQueued"
    WAITING_FOR_QUOTA = "WaitingForQuota"
    QUOTA_GRANTED = "QuotaGranted"
    QUEUED = "Queued"
    EVICTED_BY_QUEUE = "EvictedByQueue"
    UNSCHEDULABLE = "Unschedulable"
    TOPOLOGY_UNKNOWN = "TopologyUnknown"
    VOLUME_NOT_BOUND = "VolumeNotBound"
    VOLUME_NOT_FOUND = "VolumeNotFound"
    VOLUME_TAKEN = "VolumeTaken"
    VOLUME_GOING = "VolumeGoing"
    VOLUME_LOST = "VolumeLost"
    VOLUME_DIFFERS = "VolumeDiffers"
    VOLUME_NOT_SHARED = "VolumeNotShared"
    VOLUME_ON_ONE_NODE = "VolumeOnOneNode"
    VOLUME_NOT_CHECKED = "NotChecked"
    CONFIG_ERROR = "ConfigError"
    DATA_ERROR = "DataError"
    INVALID_SPEC = "InvalidSpec"
    REFUSED = "Refused"
    """The API server refuses what the job needs: a quota, a policy, RBAC, or a name that is taken."""
    SLOW_RANKS = "SlowRanks"
    NOT_MEASURED = "NotMeasured"
    NOT_USED = "NotUsed"
    RAY_READY = "Ready"
    RAY_HEAD_STARTING = "HeadStarting"
    RAY_HEAD_LOST = "HeadLost"
    RAYLET_MISSING = "RayletMissing"
    FINISHED = "Finished"
    AS_EXPECTED = "AsExpected"
