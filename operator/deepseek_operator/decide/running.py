"""Policy: whether training makes steps, is on its way back, and has something to go back to."""

from __future__ import annotations

from deepseek_operator.api.conditions import Fact, is_true
from deepseek_operator.api.names import ConditionType, Reason
from deepseek_operator.decide.gang import is_present, members
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Event

_STEPPING = frozenset({"training", "evaluating", "checkpointing", "finished", "waiting"})


def running(turn: Turn) -> Turn:
    """States Running, Restarting and Checkpointed; announces that a restarted training goes on."""
    turn = turn.stating(checkpointed(turn))
    if turn.over:
        return turn
    return _goes_on(turn) if makes_steps(turn) else _stands_still(turn)


def makes_steps(turn: Turn) -> bool:
    """Whether the gang trains, as far as its reports, or for a script its pods, tell."""
    if turn.next_generation or turn.wait_s is not None:
        return False
    script = turn.seen.job.spec.entrypoint is not None
    if turn.report is not None and turn.report.step is not None and (script or turn.report.phase in _STEPPING):
        return True
    if script:
        # A user's script need not report anything: it trains when all its workers are there.
        return all(is_present(member) for member in members(turn.seen, turn.status))
    return turn.report is None and is_true(turn.status.conditions, ConditionType.RUNNING)


def _goes_on(turn: Turn) -> Turn:
    resumed = is_true(turn.status.conditions, ConditionType.RESTARTING)
    reason = Reason.RESUMED if turn.status.attempt > 1 else Reason.AS_EXPECTED
    turn = turn.stating(
        Fact(ConditionType.RUNNING, "True", Reason.TRAINING),
        Fact(ConditionType.RESTARTING, "False", reason),
    )
    if not resumed:
        return turn
    origin = turn.status.restored_from
    start = f"from the checkpoint of step {origin.step}" if origin else "from scratch"
    return turn.announcing(Event("Normal", Reason.RESUMED, f"training goes on {start} (attempt {turn.status.attempt})"))


def _stands_still(turn: Turn) -> Turn:
    """No steps. Why a new generation restarts was said where it was decided; the rest is news from the workers."""
    if turn.next_generation or turn.wait_s is not None:
        why = [fact.reason for fact in turn.facts if fact.type == ConditionType.RESTARTING and fact.status == "True"]
        return turn.stating(Fact(ConditionType.RUNNING, "False", why[-1] if why else Reason.STARTING))
    if not is_true(turn.status.conditions, ConditionType.RUNNING):
        return turn
    reason, message = Reason.WORKER_FAILED, "training processes are started again in place"
    return turn.stating(
        Fact(ConditionType.RUNNING, "False", reason, message),
        Fact(ConditionType.RESTARTING, "True", reason, message),
    )


def checkpointed(turn: Turn) -> Fact:
    """States whether there is something to go back to."""
    newest = turn.status.checkpoint
    if newest is None:
        return Fact(ConditionType.CHECKPOINTED, "False", Reason.NO_CHECKPOINT)
    return Fact(ConditionType.CHECKPOINTED, "True", Reason.CHECKPOINT_COMMITTED, f"step {newest.step}")
