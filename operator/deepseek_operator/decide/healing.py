"""Policy: hangs that the agents found, settled and healed among themselves, without a new generation.

    told by node rank 0 ── newer than status.settledHang ──► failures, restarts.hang, restarts.healed, an Event
                                                         ├─ the budget is spent ──────► Failed
                                                         └─ the node is now avoided ──► the next generation, away from it

Rules
- Each is counted once: settledHang is written together with what it counts.
- An agent's word is about its own gang only: a pod that it names and that is no member is nobody, and the node is the one
  that the cluster knows, never one that a report tells.
- A pod whose agent is silent was not healed, and one with no restart in place left ends itself: neither is counted here.
"""

from __future__ import annotations

from deepseek_operator.api.conditions import Fact
from deepseek_operator.api.names import Cause, ConditionType, Reason
from deepseek_operator.api.status import SettledHang as Mark
from deepseek_operator.decide.budgets import charged, overdrawn, total
from deepseek_operator.decide.ending import FAILURES_MAX, failed
from deepseek_operator.decide.exclusion import excluded_nodes, excluding
from deepseek_operator.decide.gang import members, rank_zero
from deepseek_operator.decide.generation import next_generation, succession
from deepseek_operator.decide.headway import counted, standstill
from deepseek_operator.decide.losses import Loss
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Event, SettledHang

WORD = {"frozen": "RankFrozen", "behind": "RankBehind", None: "NoStep"}


def healing(turn: Turn) -> Turn:
    """Counts the hangs that are new, and moves away from a node on which they come again."""
    if turn.report is None or turn.over or turn.next_generation:
        return turn
    before = set(excluded_nodes(turn.status))
    for told in _news(turn):
        turn = turn.changed(settled_hang=Mark(generation=told.generation, round=told.round))
        if told.reason == "silent" or told.round >= turn.seen.job.spec.recovery.max_process_restarts:
            continue
        turn = _counted(turn, told)
        if turn.over:
            return turn
    return _moved(turn, set(excluded_nodes(turn.status)) - before)


def _news(turn: Turn) -> list[SettledHang]:
    mark = turn.status.settled_hang
    newest = (mark.generation, mark.round) if mark is not None else (0, -1)
    hangs = turn.report.hangs if turn.report is not None else ()
    return [h for h in hangs if newest < (h.generation, h.round) and h.generation <= turn.status.generation]


def _counted(turn: Turn, told: SettledHang) -> Turn:
    loss = _loss(turn, told)
    if spent := overdrawn(turn.seen.job.spec.recovery.budgets, turn.status.restarts, Cause.HANG):
        return failed(turn, Reason.RESTART_LIMIT, f"{spent}; the last failure: {loss.sentence()}", [loss])
    attempt = max(1, turn.status.attempt - (turn.status.generation - told.generation))
    restarts = charged(turn.status.restarts, Cause.HANG)
    restarts = restarts.model_copy(update={"healed": restarts.healed + 1})
    turn = turn.changed(
        failures=[loss.failure(turn.now, attempt), *turn.status.failures][:FAILURES_MAX],
        restarts=restarts,
        total_restarts=total(restarts),
    )
    return excluding(turn.announcing(Event("Warning", Reason.HANG, loss.sentence())), [])


def _loss(turn: Turn, told: SettledHang) -> Loss:
    named = next((m for m in members(turn.seen, turn.status) if m.name == told.pod), None)
    who = "no step" if told.rank is None or named is None else f"no step of rank {told.rank}"
    after = "" if told.step is None else f" after step {told.step}"
    where = f"; stacks are in {told.stacks}" if told.stacks else ""
    return Loss(
        named or rank_zero(turn.seen, turn.status),
        Cause.HANG,
        WORD.get(told.reason, WORD[None]) if named is not None else WORD[None],
        f"{who} for {told.seconds:.0f} s{after}; healed in place{where}",
        rank=told.rank if named is not None else None,
        node=named.pod.node if named is not None and named.pod is not None else None,
        round=told.round,
        replaced=False,
    )


def _moved(turn: Turn, avoided: set[str]) -> Turn:
    """With the members on these nodes replaced; their last hang is what that is charged to."""
    gang = members(turn.seen, turn.status)
    leaving = {member.slot for member in gang if member.pod is not None and member.pod.node in avoided}
    if not leaving or turn.wait_s is not None:  # a restart that waits replaces them, too
        return turn
    message = f"workers leave {', '.join(sorted(avoided))}, where they hung again"
    if stuck := standstill(turn, Cause.HANG):
        return failed(turn, Reason.NO_PROGRESS, f"{stuck}; {message}", [])
    restarts = turn.status.restarts.model_copy(update={"healed": turn.status.restarts.healed - 1})
    return (
        next_generation(turn, succession(turn, leaving), leaving)
        .changed(restarts=restarts, **counted(turn, Cause.HANG))
        .stating(Fact(ConditionType.RESTARTING, "True", Reason.HANG, message))
    )
