"""What a restart is charged to, and when there may be no more of them.

| cause | counted in status.restarts | its limit |
| --- | --- | --- |
| Application, OutOfMemory, Accelerator, Communication, Hang, Infrastructure | the field of that name | recovery.budgets |
| Preempted, Aftermath | the field of that name | none |

Config and Data are never restarted (`ending`).
"""

from __future__ import annotations

from pydantic.alias_generators import to_camel

from deepseek_operator.api.names import Cause
from deepseek_operator.api.v1alpha1 import Budgets, Restarts

COUNTER: dict[Cause, str] = {
    Cause.APPLICATION: "application",
    Cause.OUT_OF_MEMORY: "out_of_memory",
    Cause.ACCELERATOR: "accelerator",
    Cause.COMMUNICATION: "communication",
    Cause.HANG: "hang",
    Cause.INFRASTRUCTURE: "infrastructure",
    Cause.PREEMPTED: "preempted",
    Cause.AFTERMATH: "aftermath",
}
"""The field of status.restarts, and of recovery.budgets where there is one of that name."""


def charged(restarts: Restarts, cause: Cause) -> Restarts:
    """With one more restart of that cause."""
    counter = COUNTER[cause]
    return restarts.model_copy(update={counter: getattr(restarts, counter) + 1})


def resized(restarts: Restarts) -> Restarts:
    """With one more restart that was planned, or cost nothing: in no budget, and in no total."""
    return restarts.model_copy(update={"resize": restarts.resize + 1})


def total(restarts: Restarts) -> int:
    """Restarts of workers that nobody planned."""
    return sum(getattr(restarts, counter) for counter in COUNTER.values())


def limit_of(budgets: Budgets, cause: Cause) -> int | None:
    """Restarts that the cause may spend; None: as many as it takes."""
    limit: int | None = getattr(budgets, COUNTER[cause], None)
    return limit


def overdrawn(budgets: Budgets, restarts: Restarts, cause: Cause) -> str:
    """Why there may be no further restart of that cause; empty when there may be one."""
    limit = limit_of(budgets, cause)
    if limit is None or getattr(restarts, COUNTER[cause]) < limit:
        return ""
    field = f"recovery.budgets.{to_camel(COUNTER[cause])}"
    return f"the budget of cause {cause} is spent ({field} is {limit})"
