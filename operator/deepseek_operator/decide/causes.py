"""The cause table: the evidence that a failed pod leaves, and what it is laid to.

Rule: the rows are read from top to bottom, and the first one that fits counts. The order is that of trust: the exit
statuses of the contract, then what the cluster says, then the worker's own words, then the bare exit status. Words are
of unknown origin; all they can do is choose between causes, and each of those has a budget.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deepseek_operator.api.names import Cause, ExitCode
from deepseek_operator.decide.markers import ACCELERATOR, COMMUNICATION, OUT_OF_MEMORY, USER_MISTAKES
from deepseek_operator.decide.report import parse_report
from deepseek_operator.decide.types import Pod

WORD_MAX = 64
WORDS_MAX = 8192
"""Characters of a worker's words that are searched."""

NODE_DISRUPTIONS = frozenset(
    {"Evicted", "NodeLost", "NodeShutdown", "Shutdown", "Terminated", "Preempting", "NodeAffinity"}
    | {"UnexpectedAdmissionError", "OutOfcpu", "OutOfmemory", "OutOfpods", "DeletionByTaintManager"}
    | {"ContainerStatusUnknown", "Unknown"}
)
"""Kubernetes' words for a pod that the cluster, and not its own process, ended."""

CRASHES = frozenset({signal.SIGABRT, signal.SIGSEGV})
"""On a machine with GPUs these are mostly the driver's or the watchdog's doing."""
TOLD_TO_END = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})

_SAYS_NOTHING = ("", "Error", "Completed")
"""Reasons that Kubernetes gives any container that ended: the exit status says more."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about the end of a pod."""

    exit_code: int | None = None
    """Exit status of the container; negative for a signal, as the local mode has it."""
    word: str = ""
    """Kubernetes' reason."""
    words: str = ""
    """What the worker said, in lower case."""
    process_signal: int | None = None
    """Signal that ended the first failed training process; the container itself then ended with a status of its own."""
    disrupted: bool = False
    """The cluster took the pod, or is about to delete it."""
    behind: bool = False
    """It still took part in an older generation."""
    gpus: bool = False
    hung: bool = False
    """Its agent says that a training process made no steps."""
    helper: bool = False
    """It was an init container or a sidecar that ended: its exit statuses are not those of the contract."""

    @property
    def signal(self) -> int | None:
        """The signal that ended the container or the process, where an exit status tells."""
        return signal_of(self.exit_code) or self.process_signal

    def says(self, markers: tuple[str, ...]) -> bool:
        """Whether any of the markers is in the worker's words."""
        return any(marker in self.words for marker in markers)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    cause: Cause
    evidence: str
    fits: Callable[[Evidence], bool]
    reason: str = ""
    """The word for it; empty: Kubernetes' own, or that of the exit status."""


TABLE: tuple[Row, ...] = (
    Row(Cause.CONFIG, "exit status 78", lambda e: _exits(e, ExitCode.CONFIG_ERROR), "ConfigError"),
    Row(Cause.DATA, "exit status 65", lambda e: _exits(e, ExitCode.DATA_ERROR), "DataError"),
    Row(
        Cause.INFRASTRUCTURE,
        "deleted, evicted, pre-empted, refused by the kubelet, or its node was lost",
        lambda e: e.disrupted or e.word in NODE_DISRUPTIONS,
    ),
    Row(Cause.INFRASTRUCTURE, "ended without an exit status", lambda e: e.exit_code is None),
    Row(Cause.PREEMPTED, "exit status 75: saved, after SIGTERM", lambda e: _exits(e, ExitCode.PREEMPTED), "Preempted"),
    Row(Cause.AFTERMATH, "failed while it still took part in an older generation", lambda e: e.behind),
    Row(Cause.OUT_OF_MEMORY, "OOMKilled", lambda e: e.word == "OOMKilled"),
    Row(
        Cause.COMMUNICATION,
        "exit status 71: the check before the first step failed",
        lambda e: _exits(e, ExitCode.PREFLIGHT),
        "PreflightFailed",
    ),
    Row(Cause.APPLICATION, "an init container or a sidecar failed", lambda e: e.helper),
    Row(Cause.HANG, "the agent found a hang, and has no restart in place left", lambda e: e.hung, "NoStep"),
    Row(Cause.APPLICATION, "words: CUDA or NCCL was misused", lambda e: e.says(USER_MISTAKES)),
    Row(
        Cause.OUT_OF_MEMORY,
        "words: CUDA, HIP or the host is out of memory",
        lambda e: e.says(OUT_OF_MEMORY),
        "OutOfMemory",
    ),
    Row(
        Cause.ACCELERATOR,
        "words: ECC, XID, NVLink, a lost or crashed device",
        lambda e: e.says(ACCELERATOR),
        "AcceleratorError",
    ),
    Row(
        Cause.COMMUNICATION,
        "words: NCCL, gloo, c10d, the store or a rendezvous failed or timed out",
        lambda e: e.says(COMMUNICATION),
        "CommunicationError",
    ),
    Row(
        Cause.COMMUNICATION,
        "exit status 69: a volume, a peer or the store is out of reach",
        lambda e: _exits(e, ExitCode.UNAVAILABLE),
        "Unavailable",
    ),
    Row(
        Cause.INFRASTRUCTURE,
        "the container was ended from outside: 137 without OOMKilled, 143, 130, 129",
        lambda e: signal_of(e.exit_code) in {signal.SIGKILL, *TOLD_TO_END},
    ),
    Row(
        Cause.OUT_OF_MEMORY,
        "a training process was killed (SIGKILL), as the kernel does when memory is full",
        lambda e: e.process_signal == signal.SIGKILL,
    ),
    Row(
        Cause.ACCELERATOR,
        "SIGSEGV or SIGABRT on a worker with GPUs",
        lambda e: e.gpus and e.signal in CRASHES,
    ),
    Row(Cause.APPLICATION, "any other failure: an exception, an exit status of the program's own", lambda e: True),
)


def row_of(evidence: Evidence) -> Row:
    """The first row that fits; the last one fits all."""
    return next(row for row in TABLE if row.fits(evidence))


def evidence_of(pod: Pod, *, generation: int, gpus: bool) -> Evidence:
    """What a failed pod leaves.

    Args:
        generation: the present one.
        gpus: the workers have GPUs.
    """
    report = parse_report(pod.message)
    failure = (report.failure if report else None) or {}
    return Evidence(
        exit_code=pod.exit_code,
        word=pod.reason,
        words=(failure.get("message", "") if report else pod.message)[:WORDS_MAX].lower(),
        process_signal=_signal_in(failure),
        disrupted=pod.disrupted or pod.terminating,
        behind=report is not None and 0 < report.generation < generation,
        gpus=gpus,
        hung=failure.get("kind") == "hang" and not pod.container,
        helper=bool(pod.container),
    )


def reason_of(evidence: Evidence, row: Row) -> str:
    """One word: Kubernetes' where it tells something (OOMKilled, Evicted), else the row's, else the exit status'."""
    if evidence.word not in _SAYS_NOTHING or evidence.exit_code is None:
        return one_word(evidence.word, "Failed")
    return row.reason or one_word(_ended_by(evidence), "Failed")  # a number below zero is none of the kernel's


def one_word(text: str, otherwise: str) -> str:
    """Text as a condition's reason: letters and digits, no more than a word."""
    word = "".join(char for char in text if char.isascii() and char.isalnum())[:WORD_MAX]
    return word if word and word[0].isalpha() else otherwise


def signal_of(exit_code: int | None) -> int | None:
    """The signal in an exit status: 128 + n, or -n as Python has it; None when there is none."""
    number = 0 if exit_code is None else -exit_code if exit_code < 0 else exit_code - 128
    return number if 0 < number <= 64 else None


def _exits(evidence: Evidence, code: ExitCode) -> bool:
    return evidence.exit_code == code and not evidence.helper


def _ended_by(evidence: Evidence) -> str:
    if evidence.signal is not None:
        try:
            return signal.Signals(evidence.signal).name
        except ValueError:
            return f"Signal{evidence.signal}"
    if evidence.exit_code == ExitCode.USER_ERROR and not evidence.helper:
        return "UserError"
    return f"ExitStatus{evidence.exit_code}"


def _signal_in(failure: dict[str, Any]) -> int | None:
    """The signal that the agent names, or the one in the process' exit status."""
    name = failure.get("signal")
    if isinstance(name, str) and (known := re.fullmatch(r"SIG[A-Z0-9]+", name)):
        found = signal.Signals.__members__.get(known.group())
        if found is not None:
            return int(found)
    return signal_of(failure.get("exitCode"))
