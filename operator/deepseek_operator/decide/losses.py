"""Whether a member is lost, what it is laid to, and what the status keeps of it.

| the pod | cause |
| --- | --- |
| gone though it was launched, terminating, node lost, disrupted | Infrastructure; Preempted if it can still save (`leaving`) |
| failed | by the table in `causes` |
| succeeded in an older generation: it was done before it heard of this one, whose others would wait for it | Aftermath |

What was seen first counts: a loss that the status recorded in this attempt keeps its cause, whatever becomes of the
pod while the restart waits. So deleting a failed pod spares no budget.
"""

from __future__ import annotations

from dataclasses import dataclass

from deepseek_operator.api.names import Cause
from deepseek_operator.api.v1alpha1 import DeepSeekJob, FailureStatus, Status
from deepseek_operator.decide.causes import evidence_of, one_word, reason_of, row_of
from deepseek_operator.decide.gang import Member, members, to_be_created
from deepseek_operator.decide.report import TEXT_MAX, clean, parse_report
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Pod
from deepseek_operator.render.membership import read_announced

GRAVITY = (
    Cause.CONFIG,
    Cause.DATA,
    Cause.INFRASTRUCTURE,
    Cause.PREEMPTED,
    Cause.OUT_OF_MEMORY,
    Cause.ACCELERATOR,
    Cause.APPLICATION,
    Cause.HANG,
    Cause.COMMUNICATION,
    Cause.AFTERMATH,
)
"""Which of several causes seen together explains the others: the first of these. A pod that the cluster takes brings
its peers' collectives down, and so does one that runs out of memory; broken collectives explain nothing."""
NODE_LOST = "NodeLost"
FATAL = (Cause.CONFIG, Cause.DATA)
"""A retry can't help."""


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
    signal: int | None = None
    rank: int | None = None
    node: str | None = None
    """The node that it happened on; None where no node stands out."""
    bad_nodes: tuple[str, ...] = ()
    """Nodes that a failed preflight names."""
    round: int | None = None
    """Of a hang that the agents healed: the round that it ended."""
    replaced: bool = True
    """False: the pod goes on with the next generation."""
    leaves: bool = False
    """The pod was only told to end, and can still save with the others."""

    def failure(self, now: str, attempt: int) -> FailureStatus:
        """The entry in status.failures."""
        return FailureStatus(
            time=now,
            pod=self.member.name,
            node=self.node,
            slot=self.member.slot,
            attempt=attempt,
            round=self.round,
            rank=self.rank,
            exit_code=self.exit_code,
            signal=self.signal,
            cause=self.cause.value,
            reason=self.reason,
            message=self.message,
        )

    def sentence(self) -> str:
        """The loss, for people."""
        node = f" on node {self.node}" if self.node else ""
        status = f", exit status {self.exit_code}" if self.exit_code is not None else ""
        words = f": {self.message}" if self.message else ""
        return f"worker {self.member.slot} (pod {self.member.name}{node}): {self.reason}{status}{words}"


def losses_of(turn: Turn) -> list[Loss]:
    """All members that are lost, the gravest first."""
    found = [loss_of(member, turn.seen.job, turn.status) for member in members(turn.seen, turn.status)]
    return gravest_first([loss for loss in found if loss is not None])


def gravest_first(losses: list[Loss]) -> list[Loss]:
    """In the order in which they explain each other."""
    return sorted(losses, key=lambda loss: (GRAVITY.index(loss.cause), loss.member.slot))


def recorded(status: Status) -> list[FailureStatus]:
    """The losses of the present attempt that the status has on record: their restart has not begun. First seen first."""
    now = [entry for entry in reversed(status.failures) if entry.attempt == status.attempt and entry.round is None]
    return sorted(now, key=lambda failure: (failure.time, GRAVITY.index(_cause_on_record(failure))))


def loss_of(member: Member, job: DeepSeekJob, status: Status) -> Loss | None:
    """How the member was lost; None: it is there, has succeeded, or is yet to be created."""
    found = _seen(member, job, status)
    if found is None or found.cause in FATAL:
        return found
    known = next((failure for failure in recorded(status) if failure.pod == member.name), None)
    return found if known is None else _remembered(member, known, found)


def _remembered(member: Member, known: FailureStatus, found: Loss) -> Loss:
    return Loss(
        member,
        _cause_on_record(known),
        known.reason,
        known.message,
        exit_code=known.exit_code,
        signal=known.signal,
        rank=known.rank,
        node=known.node,
        bad_nodes=found.bad_nodes,
    )


def _cause_on_record(failure: FailureStatus) -> Cause:
    """Its cause; Application for a word that a newer operator wrote."""
    return Cause(failure.cause) if failure.cause in GRAVITY else Cause.APPLICATION


def _seen(member: Member, job: DeepSeekJob, status: Status) -> Loss | None:
    pod = member.pod
    if pod is None:
        missing = Loss(member, Cause.INFRASTRUCTURE, "PodDeleted", "the pod is gone")
        return None if to_be_created(status, member.slot) else missing
    if pod.phase == "Succeeded":
        return _too_early(member, pod, status)
    if pod.phase == "Failed":
        return _ended(member, pod, job, status)
    if pod.unreachable:
        return Loss(member, Cause.INFRASTRUCTURE, NODE_LOST, "its node doesn't answer any more", node=pod.node)
    if pod.disrupted or pod.phase == "Unknown":
        word, message = one_word(pod.reason, "Disrupted"), clean(pod.message, TEXT_MAX)
        return Loss(member, Cause.INFRASTRUCTURE, word, message, node=pod.node)
    if pod.terminating:
        return Loss(member, Cause.INFRASTRUCTURE, "PodDeleted", "the pod is being deleted", node=pod.node)
    return None


def _too_early(member: Member, pod: Pod, status: Status) -> Loss | None:
    report = parse_report(pod.message)
    # What it was told it need not have seen: its own last words know better.
    heard_of = (report.generation if report else 0) or read_announced(pod.membership).generation
    if not 0 < heard_of < status.generation:
        return None
    message = f"it succeeded in generation {heard_of}, before it heard of generation {status.generation}"
    return Loss(member, Cause.AFTERMATH, "EndedBefore", message, exit_code=pod.exit_code, node=pod.node)


def _ended(member: Member, pod: Pod, job: DeepSeekJob, status: Status) -> Loss:
    report = parse_report(pod.message)
    failure = (report.failure if report else None) or {}
    evidence = evidence_of(pod, generation=status.generation, gpus=job.spec.workers.has_gpus())
    row = row_of(evidence)
    words = failure.get("message", "") if report else last_words(pod.message)
    return Loss(
        member,
        row.cause,
        reason_of(evidence, row),
        f"container {pod.container}: {words}" if pod.container else words,
        exit_code=pod.exit_code,
        signal=evidence.signal,
        rank=failure.get("rank"),
        node=None if row.cause == Cause.HANG and failure.get("rank") is None else pod.node,
        bad_nodes=tuple(failure.get("nodes", ())) if failure.get("kind") == "preflight" else (),
    )


def last_words(text: str) -> str:
    """The end of an output that is no report: what a program says last tells the most."""
    return clean(text, len(text))[-TEXT_MAX:].strip()
