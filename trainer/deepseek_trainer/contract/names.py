"""Names, paths, numbers and exit codes that the agent and the trainer share with whoever launches them."""

from __future__ import annotations

from enum import IntEnum


class Env:
    """Environment variables that the launcher sets in every worker pod."""

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
    # Set by the agent for every training process, beside torchrun's own (RANK, WORLD_SIZE, MASTER_ADDR …).
    GENERATION = "DEEPSEEKJOB_GENERATION"
    ATTEMPT = "DEEPSEEKJOB_ATTEMPT"
    PROGRESS_FILE = "DEEPSEEKJOB_PROGRESS_FILE"
    PULSE_FILE = "DEEPSEEKJOB_PULSE_FILE"


class Paths:
    """Where things are inside a worker pod."""

    MEMBERSHIP_FILE = "/etc/deepseekjob/membership.json"
    RUN_CONFIG_FILE = "/etc/deepseekjob/run-config.json"
    RUN_DIR = "/run/deepseekjob"
    CHECKPOINTS = "/checkpoints"
    TERMINATION_LOG = "/dev/termination-log"
    RAY_TOKEN = "/var/run/deepseekjob/ray/token"  # noqa: S105 - where it is
    CORPORA = "/opt/deepseekjob/corpora"
    """Corpora that the image carries, so that a pod without internet can train."""


SILENT_MAX = 16
AGENT_PORT = 8471
MASTER_PORT = 29500
TERMINATION_LOG_MAX_BYTES = 4096
PROGRESS_MAX_BYTES = 65536
STRAGGLERS_MAX = 16
"""Slow ranks in a report."""
CHECKPOINT_MESSAGE_LENGTH = 512
PASSED_OVER_MAX = 5
PASSED_OVER_LENGTH = 400
"""Of the checkpoints that a start has refused: how many a report names, and how long each reason may be."""
QUARANTINED_SHOWN = 5
QUARANTINED_LENGTH = 160
"""Of the records that were left out of the data: how many a report names, and how long each may be."""


class RayPorts:
    """Where the parts of Ray listen in the head's and the workers' pods, with data.ray; pairs are first and last."""

    GCS = 6379
    """The head's table of the cluster."""
    NODE_MANAGER = 6380
    OBJECT_MANAGER = 6381
    AGENTS = (6382, 6399)
    WORKERS = (20000, 20999)


class ExitCode(IntEnum):
    """The exit status of a worker's container; what the operator's policy is decided by."""

    SUCCESS = 0
    USER_ERROR = 1
    """The training process failed more often than it may be restarted in place."""
    DATA_ERROR = 65
    """The data can't be read or isn't what it was: a retry can't help."""
    UNAVAILABLE = 69
    """Infrastructure: a volume, a peer or the rendezvous could not be reached. Worth another try."""
    PREFLIGHT = 71
    """The check before the first step failed; the last words name the node that is to be avoided."""
    PREEMPTED = 75
    """SIGTERM arrived; the state was saved and the processes ended in good order."""
    CONFIG_ERROR = 78
    """The run config is wrong: a retry can't help."""
