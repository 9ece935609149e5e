"""What an audit said, beside what the job's status says. Pure.

Only a verdict that is known counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deepseek_operator.api.v1alpha1 import DeepSeekJob

from deepseek_client.beside.answer import understood
from deepseek_client.errors import ClientError

EXIT_STATUS = {"proven": 0, "not proven": 1, "unknown": 2}
Rows = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict, what to show of it, and all facts for a program."""

    verdict: str
    rows: Rows
    facts: dict[str, Any]

    @property
    def exit_status(self) -> int:
        """0 proven, 1 not proven, 2 it can't be judged."""
        return EXIT_STATUS[self.verdict]


def parse(text: str) -> Answer:
    """The answer of the trainer's audit.

    Raises:
        ClientError: it is none.
    """
    with understood(text, "the audit gave no answer") as facts:
        rows = [(str(name), str(said)) for name, said in facts["rows"]]
        verdict = str(facts["verdict"])
    if verdict not in EXIT_STATUS:
        raise ClientError(f"the audit's verdict {verdict[:40]!r} is unknown to this client; upgrade deepseek-client")
    return Answer(verdict, rows, facts)


def status_step(job: DeepSeekJob) -> int | None:
    """The step whose chain the job's status has; None: it has none."""
    training = job.status.training
    return training.step if training is not None and training.chain else None


def compared(answer: Answer, job: DeepSeekJob) -> Answer:
    """The answer with one row more: the chain of the job's status beside the recomputed one of the same step."""
    training, step = job.status.training, status_step(job)
    at = answer.facts.get("chain_at")
    if training is None or step is None:
        return _with(answer, "has no chain yet", "unknown")
    if isinstance(at, list) and len(at) > 1 and at[0] == step:
        same = training.chain in at[1:]
        said = f"chain of step {step}: {'equal to the recomputed one' if same else 'DIFFERS from the recomputed one'}"
        verdict = answer.verdict if same else "not proven"
        return _with(answer, said, "equal" if same else "differs", verdict)
    if step > (answer.facts.get("step") or 0):
        return _with(answer, f"is at step {step}, which no checkpoint has yet: not compared", "ahead")
    return _with(answer, f"chain of step {step}: there is no recomputed one to compare with", "unknown")


def _with(answer: Answer, said: str, status: str, verdict: str | None = None) -> Answer:
    verdict = verdict or answer.verdict
    rows = [("verdict", "NOT proven"), *answer.rows[1:]] if verdict != answer.verdict else answer.rows
    facts = {**answer.facts, "verdict": verdict, "status": status}
    return Answer(verdict, [*rows, ("status", said)], facts)
