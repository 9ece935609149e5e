"""What a bench of recoveries found, as a table and one last line. Pure.

A try that is lost (no step for as long as was waited, or every agent gone) counts as longer than any that came back.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from support import bench_table


@dataclass(frozen=True)
class Try:
    """One fault and what came of it."""

    seconds: float
    """From the fault to the next step of the whole world; where there was none, how long was waited for one."""
    lost: str = ""
    """What happened instead, in a word or two; empty: training went on."""


@dataclass(frozen=True)
class Row:
    """The tries of one fault, by the names of the ways in which each side was tried; a way without tries is left out.

    Attributes:
        theirs: the ways of the other side; the best of them counts.
        ours: our ways; each of them has to be ahead.
    """

    fault: str
    theirs: Mapping[str, Sequence[Try]]
    ours: Mapping[str, Sequence[Try]]


def decided(tries: Sequence[Try], repeats: int) -> bool:
    """Whether more tries can't change the median: enough were made, or more than half of all are lost already."""
    return len(tries) >= repeats or 2 * sum(1 for each in tries if each.lost) > repeats


def median_s(tries: Sequence[Try]) -> float:
    """The (lower) median in seconds; infinite when most tries are lost, or there are none."""
    times = sorted(math.inf if each.lost else each.seconds for each in tries)
    return times[(len(times) - 1) // 2] if times else math.inf


def cell(tries: Sequence[Try]) -> str:
    """The median, or what happened most often instead."""
    if not tries:
        return "not tried"
    lost = Counter(each.lost for each in tries if each.lost)
    seconds = median_s(tries)
    if seconds == math.inf:
        return lost.most_common(1)[0][0]
    return f"{seconds:.1f}" + (f" ({lost.total()} lost)" if lost else "")


def best_s(row: Row) -> float:
    """The other side's median in its best way."""
    return min(median_s(tries) for tries in row.theirs.values())


def ratio(row: Row, way: str) -> str:
    """How many times longer the other side takes than one of our ways."""
    ours, theirs = median_s(row.ours.get(way, ())), best_s(row)
    if ours == math.inf:
        return "lost"
    if theirs < math.inf:
        return f"{theirs / ours:.1f}x"
    waited = max(each.seconds for tries in row.theirs.values() for each in tries)
    return f"> {waited / ours:.0f}x"


def behind(row: Row, ways: Sequence[str]) -> list[str]:
    """Those of our ways that are not ahead, with the figures."""
    return [
        f"{row.fault}, {way} ({cell(row.ours.get(way, ()))} against {best_s(row):.1f} s)"
        for way in ways
        if not median_s(row.ours.get(way, ())) < best_s(row)
    ]


def table(rows: Sequence[Row], ways: Sequence[str]) -> str:
    """A line a fault and way of the other side; our figures stand in the fault's first line."""
    head = f"{'':40}{'':22}{'theirs':>12}" + "".join(f"{way:>18}{'':>8}" for way in ways)
    lines = [head.rstrip()]
    for row in rows:
        ours = "".join(f"{cell(row.ours.get(way, ())):>18}{ratio(row, way):>8}" for way in ways)
        for number, (way, tries) in enumerate(row.theirs.items()):
            first = number == 0
            lines.append(f"{row.fault if first else '':40}{way:22}{cell(tries):>12}{ours if first else ''}".rstrip())
    return "\n".join(lines)


def last_line(rows: Sequence[Row], ways: Sequence[str]) -> str:
    """The verdict over the faults that both sides were tried with."""
    missed = [each for row in rows for each in behind(row, ways)]
    return bench_table.last_line(missed, f"all {len(rows)} faults")
