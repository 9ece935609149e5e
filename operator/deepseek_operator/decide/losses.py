"""Whether a member is lost, and whose fault that is.

| the pod | cause |
| --- | --- |
| gone though it was launched, terminating, node lost, disrupted, ended without an exit status, exit 75 | cluster |
| exit 78 (config), 65 (data) | fatal: a retry can't help |
| exit 69: it could not reach a volume, a peer or the store | unreachable |
| any other failure, while it still took part in an older generation | aftermath |
| any other failure | worker |

Exit 69 of one pod is often the echo of another one's loss. Seen together with a loss to the cluster it costs
nothing; alone it is charged to the worker's budget, because a volume that is never there must end the job.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from deepseek_operator.api.names import ExitCode
from deepseek_operator.api.v1alpha1 import FailureStatus, Status
from deepseek_operator.decide.gang import Member, to_be_created
from deepseek_operator.decide.report import TEXT_MAX, clean, parse_report
from deepseek_operator.decide.types import Pod, Progress

WORD_MAX = 64


class Cause(Enum):
    """Who or what a loss is laid to."""

    FATAL = "fatal"
    WORKER = "worker"
    UNREACHABLE = "unreachable"
    AFTERMATH = "aftermath"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class Loss:
    """A member that has to be replaced, or that ends the job."""

    member: Member
    cause: Cause
    reason: str
    """One word."""
    message: str = ""
    """The worker's last words, or the cluster's."""
    exit_code: int | None = None
    rank: int | None = None

    def failure(self, now: str) -> FailureStatus:
        """The entry in status.failures."""
        return FailureStatus(
            time=now,
            pod=self.member.name,
            node=self.member.pod.node if self.member.pod else None,
            slot=self.member.slot,
            rank=self.rank,
            exit_code=self.exit_code,
            reason=self.reason,
            message=self.message,
        )

    def sentence(self) -> str:
        """The loss, for people."""
        node = f" on node {self.member.pod.node}" if self.member.pod and self.member.pod.node else ""
        status = f", exit status {self.exit_code}" if self.exit_code is not None else ""
        words = f": {self.message}" if self.message else ""
        return f"worker {self.member.slot} (pod {self.member.name}{node}): {self.reason}{status}{words}"


_REASON_OF_EXIT: dict[int, str] = {
    ExitCode.USER_ERROR: "UserError",
    ExitCode.DATA_ERROR: "DataError",
    ExitCode.UNAVAILABLE: "Unavailable",
    ExitCode.PREEMPTED: "Preempted",
    ExitCode.CONFIG_ERROR: "ConfigError",
}
_FATAL = (ExitCode.DATA_ERROR, ExitCode.CONFIG_ERROR)
_SAYS_NOTHING = ("", "Error", "Completed")
"""Reasons that Kubernetes gives any container that ended: the exit status says more."""


def one_word(text: str, otherwise: str) -> str:
    """Text as a condition's reason: letters and digits, no more than a word."""
    word = "".join(char for char in text if char.isascii() and char.isalnum())[:WORD_MAX]
    return word if word and word[0].isalpha() else otherwise


def loss_of(member: Member, status: Status) -> Loss | None:
    """How the member was lost; None: it is there, has succeeded, or is yet to be created."""
    pod = member.pod
    if pod is None:
        missing = Loss(member, Cause.CLUSTER, "PodDeleted", "the pod is gone")
        return None if to_be_created(status, member.slot) else missing
    if pod.phase == "Succeeded":
        return None
    if pod.phase == "Failed":
        return _loss_of_ended(member, pod, status)
    if pod.disrupted or pod.phase == "Unknown":
        return Loss(member, Cause.CLUSTER, one_word(pod.reason, "Disrupted"), clean(pod.message, TEXT_MAX))
    if pod.terminating:
        return Loss(member, Cause.CLUSTER, "PodDeleted", "the pod is being deleted")
    return None


def _loss_of_ended(member: Member, pod: Pod, status: Status) -> Loss:
    report = parse_report(pod.message)
    failure = (report.failure if report else None) or {}
    words = failure.get("message", "") if report else clean(pod.message, TEXT_MAX)
    return Loss(
        member,
        _cause(pod, report, status),
        _reason(pod),
        words,
        exit_code=pod.exit_code,
        rank=failure.get("rank"),
    )


def _cause(pod: Pod, report: Progress | None, status: Status) -> Cause:
    if pod.exit_code in _FATAL:
        return Cause.FATAL
    if pod.disrupted or pod.terminating or pod.exit_code in (None, ExitCode.PREEMPTED):
        return Cause.CLUSTER
    if report is not None and 0 < report.generation < status.generation:
        return Cause.AFTERMATH
    return Cause.UNREACHABLE if pod.exit_code == ExitCode.UNAVAILABLE else Cause.WORKER


def _reason(pod: Pod) -> str:
    """Kubernetes' word where it tells something (OOMKilled, Evicted), else that of the exit status."""
    if pod.reason not in _SAYS_NOTHING or pod.exit_code is None:
        return one_word(pod.reason, "Failed")
    return _REASON_OF_EXIT.get(pod.exit_code, f"ExitStatus{pod.exit_code}")
