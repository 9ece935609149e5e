"""Policy: whether some ranks are persistently slower than the others, who wait for them in each step.

Rules
- Node rank 0's agent judges; this only says it. Nothing is restarted or moved for it: that is for people to decide.
- The figures are those with which a rank was named, so the sentence changes when the ranks do, or the figures by much.
- What nobody measures (a script that tells no waits, a gang that doesn't train) is False, NotMeasured.
"""

from __future__ import annotations

from deepseek_operator.api.conditions import Fact, fact_of
from deepseek_operator.api.names import ConditionType, Reason
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Event, Straggler

SHOWN = 4
"""Ranks in the sentence; the others are counted."""


def straggling(turn: Turn) -> Turn:
    """States Straggling; announces when it begins."""
    said = fact_of(turn.status.conditions, ConditionType.STRAGGLING)
    gone = turn.over or turn.next_generation or turn.rest is not None
    if said is not None and turn.report is None and not gone:
        return turn  # nothing is heard for the moment
    slow = turn.report.stragglers if turn.report is not None and not gone else None
    if not slow:
        reason = Reason.NOT_MEASURED if slow is None else Reason.AS_EXPECTED
        return turn.stating(Fact(ConditionType.STRAGGLING, "False", reason))
    message = sentence(slow)
    turn = turn.stating(Fact(ConditionType.STRAGGLING, "True", Reason.SLOW_RANKS, message))
    return (
        turn.announcing(Event("Warning", Reason.SLOW_RANKS, message)) if said is None or said.status != "True" else turn
    )


def sentence(slow: tuple[Straggler, ...]) -> str:
    """Who is slow, where, and what it costs; of many the costliest."""
    costliest = sorted(slow, key=lambda straggler: (straggler.median_seconds - straggler.busy_seconds, straggler.rank))
    named = "; ".join(_one(straggler) for straggler in costliest[:SHOWN])
    more = f"; and {len(slow) - SHOWN} more" if len(slow) > SHOWN else ""
    return f"the others wait in each step for {named}{more}"


def _one(slow: Straggler) -> str:
    where = f"pod {slow.pod}, node {slow.node}" if slow.node else f"pod {slow.pod}"
    cost_s = max(0.0, slow.busy_seconds - slow.median_seconds)
    return f"rank {slow.rank} ({where}): {_seconds(cost_s)} of {_seconds(slow.step_seconds)}"


def _seconds(seconds: float) -> str:
    """Two significant digits."""
    return f"{float(f'{seconds:.2g}'):g} s"
