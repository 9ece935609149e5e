"""Who is to blame for a standstill: what each agent says of its ranks, and what follows from all of it. Pure.

The first row that fits counts:

| evidence | named |
| --- | --- |
| the kernel has stopped a process, or it waits for a device and can't be woken | its rank |
| an agent says nothing while others do | its pod |
| one rank alone is behind all others, by step and by parts of a step | that rank |
| anything else | nobody |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deepseek_trainer.agent.rounds import Record
from deepseek_trainer.contract import HangReason

FROZEN = frozenset("TtD")
"""States of Linux' processes: stopped by a signal, stopped by a debugger, in an uninterruptible wait."""


class RankState(Record):
    """One training process, as its agent sees it."""

    rank: int
    state: str = ""
    """Linux' letter for the state of the process; D only if it was so each time somebody looked."""
    step: int | None = None
    """Steps done, by its pulse; None where it has none."""
    ticks: int = 0


class Statement(Record):
    """What one agent says."""

    pod: str
    node: str = ""
    ranks: tuple[RankState, ...]
    still_s: float = 0.0
    """Longest standstill among its ranks."""


class Verdict(Record):
    """What the agents agree on."""

    reason: HangReason | None = None
    """None: nobody stands out."""
    node_rank: int | None = None
    pod: str = ""
    node: str = ""
    rank: int | None = None
    state: str = ""
    step: int | None = None
    """Steps that were done when training stopped."""
    still_s: float = 0.0


def judge(statements: Mapping[int, Statement], silent: Sequence[int], pods: Mapping[int, tuple[str, str]]) -> Verdict:
    """The verdict.

    Args:
        statements: by node rank.
        silent: node ranks that said nothing, though they should have.
        pods: pod and node by node rank, as far as they are known.
    """
    ranks = [(node_rank, state) for node_rank, said in sorted(statements.items()) for state in said.ranks]
    steps = [state.step for _, state in ranks if state.step is not None and state.step >= 0]
    common: dict[str, object] = {
        "step": max(steps, default=None),
        "still_s": round(max((said.still_s for said in statements.values()), default=0.0), 1),
    }
    frozen = [found for found in ranks if found[1].state in FROZEN]
    if frozen and len(frozen) < len(ranks) + len(silent):
        return _of(*frozen[0], "frozen", statements, common)
    if silent and statements:
        pod, node = pods.get(silent[0], ("", ""))
        return Verdict.model_validate(common | {"reason": "silent", "node_rank": silent[0], "pod": pod, "node": node})
    behind = _behind([state for _, state in ranks])
    if behind is not None:
        return _of(*next(found for found in ranks if found[1] is behind), "behind", statements, common)
    return Verdict.model_validate(common)


def _of(
    node_rank: int, state: RankState, reason: HangReason, statements: Mapping[int, Statement], common: dict[str, object]
) -> Verdict:
    said = statements[node_rank]
    found = {"node_rank": node_rank, "pod": said.pod, "node": said.node, "rank": state.rank, "state": state.state}
    return Verdict.model_validate(common | found | {"reason": reason})


def _behind(ranks: Sequence[RankState]) -> RankState | None:
    """The one rank that is furthest behind; None when there are several, or some have no pulse."""
    if len(ranks) < 2 or any(state.step is None for state in ranks):
        return None
    first, second, *_ = sorted(ranks, key=_position)
    return first if _position(first) < _position(second) else None


def _position(state: RankState) -> tuple[int, int]:
    return (-1 if state.step is None else state.step, state.ticks)
