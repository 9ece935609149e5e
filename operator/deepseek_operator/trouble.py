"""What the API server refused, told in the job's own words: a condition, an Event, and no hot loop. Pure.

Two kinds: a stored object that the models refuse (made before the schema knew better), and effects that are
refused (quota, policy, RBAC, a name that is taken). Both are `Stalled`, kstatus' word for "needs a person".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from deepseek_operator.api.conditions import Fact, fact_of, merge, summary
from deepseek_operator.api.names import ConditionType, Reason
from deepseek_operator.api.v1alpha1 import Status
from deepseek_operator.cluster.errors import AlreadyExists, ApiError, Forbidden, Invalid, NotServed
from deepseek_operator.decide.types import Event

MAX_TEXT = 1024
NEEDS_A_PERSON = (AlreadyExists, Forbidden, Invalid, NotServed)
WEBHOOK = "failed calling webhook"
"""The API server's words when an admission webhook doesn't answer; the status is that of an inner error."""


def invalid_spec_message(error: ValidationError) -> str:
    """One line that names each wrong field and what is wrong with it."""
    wrong = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
    return _shorten("the stored object is not valid: " + "; ".join(wrong) + "; correct it with kubectl edit")


def refusal_message(refusals: Iterable[ApiError]) -> str | None:
    """One line for those refusals that waiting alone does not mend; None when there are none."""
    texts = sorted({e.message or str(e) for e in refusals if isinstance(e, NEEDS_A_PERSON) or WEBHOOK in e.message})
    return _shorten("the API server refuses what this job needs: " + "; ".join(texts)) if texts else None


def refused_status(new: Status, observed: Status, message: str, now: datetime, generation: int) -> Status:
    """The new status with Stalled=True; the observed one itself when that says the same already.

    A job that waits for pods which can't be made says so in PodsReady, and with it in state and reason.
    """
    facts = [
        Fact(ConditionType.STALLED, "True", Reason.REFUSED, message),
        Fact(ConditionType.RECONCILING, "False", Reason.REFUSED, message),
    ]
    pods = fact_of(new.conditions, ConditionType.PODS_READY)
    if pods is not None and pods.reason == Reason.WAITING_FOR_PODS:
        facts.append(Fact(ConditionType.PODS_READY, "False", Reason.REFUSED, message))
    kept = {fact.type for fact in facts}
    history = [c for c in new.conditions if c.type not in kept] + [c for c in observed.conditions if c.type in kept]
    conditions = merge(history, facts, now, generation)
    state, reason = summary(conditions)
    status = new.model_copy(update={"conditions": conditions, "state": state.value, "reason": str(reason)})
    # The moment of writing alone is not worth a write.
    return observed if status.model_copy(update={"training": observed.training}) == observed else status


def observed_status(raw: Mapping[str, Any]) -> Status:
    """The status of a job whose spec can't be read; an empty one when that can't be read either."""
    try:
        return Status.model_validate(raw.get("status", {}))
    except ValidationError:
        return Status()


def warning(reason: Reason, message: str) -> Event:
    """The Event beside the condition."""
    return Event(type="Warning", reason=reason.value, message=message)


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
