"""The pass' last word: conditions, state, and whether any of it is worth a write.

Rules
- `state` and the kstatus pair follow from the other conditions. Reconciling: on the way to running, to rest or to an
  end. Stalled: failed for good.
- What people and programs wait for is written at once. Numbers that move all the time (progress, ready counts,
  goodput, wording) are written at most every `WRITE_EVERY_S`: the status' own `training.time` says when last.
- Nothing new: the observed status itself is returned, and nothing is written.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from deepseek_operator.api.conditions import Fact, is_true, merge, parse_time, summary
from deepseek_operator.api.names import LABEL_JOB_UID, ConditionType, Reason, State
from deepseek_operator.api.v1alpha1 import Condition, Status, TrainingProgress
from deepseek_operator.decide.turn import Turn

WRITE_EVERY_S = 5.0

_MOVING = ("training", "nodes", "ready_nodes", "goodput", "checkpoint", "stepped_at", "unheard_since")


def settle(turn: Turn) -> Turn:
    """With the conditions merged, the state folded, and writes that are not worth it withheld."""
    new = _folded(turn)
    old = turn.seen.job.status
    if _timeless(new) == _timeless(old):
        return replace(turn, status=old)
    age_s = _age_s(old, turn.seen.now)
    if _significant(new) == _significant(old) and 0 <= age_s < WRITE_EVERY_S and not _last_words(turn, new):
        return replace(turn, status=old).due_in(WRITE_EVERY_S - age_s)
    return replace(turn, status=_stamped(new, turn.now))


def _folded(turn: Turn) -> Status:
    meta = turn.seen.job.metadata
    conditions = merge(turn.status.conditions, turn.facts, turn.seen.now, meta.generation)
    state, reason = summary(conditions)
    conditions = merge(conditions, kstatus(conditions, state, reason), turn.seen.now, meta.generation)
    return turn.status.model_copy(
        update={
            "observed_generation": meta.generation,
            "conditions": conditions,
            "state": state.value,
            "reason": str(reason),
            "selector": f"{LABEL_JOB_UID}={meta.uid}",
        }
    )


def kstatus(conditions: list[Condition], state: State, reason: str) -> tuple[Fact, Fact]:
    """Reconciling and Stalled, as kstatus defines them: never both, and neither once all is as it should be."""
    failed = is_true(conditions, ConditionType.FAILED)
    settled = state in (State.RUNNING, State.SUSPENDED, State.SUCCEEDED, State.FAILED)
    return (
        Fact(ConditionType.RECONCILING, "False" if settled else "True", reason),
        Fact(ConditionType.STALLED, "True" if failed else "False", reason if failed else Reason.AS_EXPECTED),
    )


def _last_words(turn: Turn, new: Status) -> bool:
    """A job on its way to rest has saved: the pod that says so is gone by the next look."""
    return turn.rest is not None and new.checkpoint != turn.seen.job.status.checkpoint


def _timeless(status: Status) -> Status:
    """Without the moment at which it was written."""
    if status.training is None:
        return status
    return status.model_copy(update={"training": status.training.model_copy(update={"time": None})})


def _significant(status: Status) -> Status:
    """Without what moves all the time."""
    still = Status()
    conditions = [condition.model_copy(update={"message": ""}) for condition in status.conditions]
    moving = {name: getattr(still, name) for name in _MOVING}
    charged = status.restarts.model_copy(update={"process": 0})
    return status.model_copy(update=moving | {"conditions": conditions, "restarts": charged})


def _age_s(status: Status, now: datetime) -> float:
    """Seconds since the last write; negative when it is not known."""
    written = parse_time(status.training.time) if status.training is not None else None
    return -1.0 if written is None else (now - written).total_seconds()


def _stamped(status: Status, now: str) -> Status:
    training = status.training or TrainingProgress(phase="starting")
    return status.model_copy(update={"training": training.model_copy(update={"time": now})})
