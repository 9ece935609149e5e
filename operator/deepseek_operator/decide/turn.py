"""One pass of thought: what was seen, and the status as the policies have shaped it so far.

A policy is a function Turn -> Turn. It changes the status (the intent), states facts (conditions) and announces
Events; it never plans a write. The writes follow from the finished status in `effects`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from deepseek_operator.api.conditions import Fact, is_true, rfc3339
from deepseek_operator.api.names import ConditionType, Reason
from deepseek_operator.api.v1alpha1 import Status
from deepseek_operator.decide.types import Event, Observation, Progress


@dataclass(frozen=True, slots=True)
class Turn:
    """The state of the thought between two policies."""

    seen: Observation
    status: Status
    facts: tuple[Fact, ...] = ()
    """What the conditions shall say; of two facts of one type the later one counts."""
    events: tuple[Event, ...] = ()
    report: Progress | None = None
    """The newest report of the present generation."""
    wait_s: float | None = None
    """A decision is due, and put off for this long."""
    due_s: float | None = None
    """Something falls due in so many seconds, and must be looked at then."""
    rest: Fact | None = None
    """Why the job may have no pods; None: it may."""

    @property
    def now(self) -> str:
        """The moment of the observation, as the API writes it."""
        return rfc3339(self.seen.now)

    @property
    def next_generation(self) -> bool:
        """This pass has raised the generation: whatever was seen is about the one before."""
        return self.status.generation != self.seen.job.status.generation

    @property
    def over(self) -> bool:
        """The job has ended, in this pass or before."""
        return ended(self.status) or any(
            fact.status == "True" for fact in self.facts if fact.type in (ConditionType.COMPLETE, ConditionType.FAILED)
        )

    def changed(self, **fields: Any) -> Turn:
        """With other values for fields of the status."""
        return replace(self, status=self.status.model_copy(update=fields))

    def stating(self, *facts: Fact) -> Turn:
        """With more facts."""
        return replace(self, facts=self.facts + facts)

    def due_in(self, seconds: float) -> Turn:
        """To be looked at again in this time, at the latest."""
        return replace(self, due_s=seconds if self.due_s is None else min(self.due_s, seconds))

    def announcing(self, event: Event) -> Turn:
        """With one more Event."""
        return replace(self, events=(*self.events, event))


Policy = Callable[[Turn], Turn]

UNLESS_SAID = (
    Fact(ConditionType.COMPLETE, "False", Reason.AS_EXPECTED),
    Fact(ConditionType.FAILED, "False", Reason.AS_EXPECTED),
    Fact(ConditionType.ADMITTED, "True", Reason.NOT_QUEUED),
    Fact(ConditionType.SUSPENDED, "False", Reason.AS_EXPECTED),
)
"""What the conditions of a job that has not ended say, unless a policy states otherwise."""


def ended(status: Status) -> bool:
    """Whether the job is over for good, as far as its status says.

    A job that was refused as invalid has not begun: once its spec is mended it is like new.
    """
    if is_true(status.conditions, ConditionType.COMPLETE):
        return True
    return is_true(status.conditions, ConditionType.FAILED) and not is_refused(status)


def is_refused(status: Status) -> bool:
    """Whether the status says that the spec can't be understood."""
    return any(c.type == ConditionType.FAILED and c.reason == Reason.INVALID_SPEC for c in status.conditions)
