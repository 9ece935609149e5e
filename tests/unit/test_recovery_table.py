"""The table and the last line of `make bench-recovery`."""

from __future__ import annotations

import math

import pytest
from support.recovery_table import Row, Try, best_s, cell, decided, last_line, median_s, ratio, table

GONE, MUTE = Try(40.0, "job lost"), Try(30.0, "no step")
WAYS = ("ours", "prewarmed")


def row(theirs: dict[str, list[Try]], ours: float, prewarmed: float, fault: str = "rank killed") -> Row:
    return Row(fault, theirs, {"ours": [Try(ours)], "prewarmed": [Try(prewarmed)]})


@pytest.mark.parametrize(
    ("tries", "median", "shown"),
    [
        ([Try(3.0), Try(1.0), Try(2.0)], 2.0, "2.0"),
        ([Try(3.0), Try(1.0)], 1.0, "1.0"),
        ([Try(3.0), GONE, Try(1.0)], 3.0, "3.0 (1 lost)"),
        ([GONE, Try(1.0), MUTE, MUTE], math.inf, "no step"),
        ([MUTE], math.inf, "no step"),
        ([], math.inf, "not tried"),
    ],
)
def test_a_lost_try_is_longer_than_any_other(tries: list[Try], median: float, shown: str) -> None:
    assert (median_s(tries), cell(tries)) == (median, shown)


@pytest.mark.parametrize(
    ("tries", "settled"),
    [
        ([], False),
        ([Try(1.0)] * 2, False),
        ([Try(1.0)] * 3, True),
        ([GONE], False),
        ([GONE, MUTE], True),
        ([GONE, Try(1.0)], False),
    ],
)
def test_no_more_tries_than_can_change_the_median(tries: list[Try], settled: bool) -> None:
    assert decided(tries, 3) is settled


def test_the_other_sides_best_way_counts() -> None:
    found = row({"plain": [MUTE], "tuned": [Try(5.0)]}, 2.0, 1.0)
    assert best_s(found) == 5.0
    assert [ratio(found, way) for way in WAYS] == ["2.5x", "5.0x"]
    assert last_line([found], WAYS) == "ahead in all 1 faults"


def test_against_a_lost_job_any_recovery_is_ahead() -> None:
    found = row({"plain": [GONE]}, 2.0, 1.0)
    assert [ratio(found, way) for way in WAYS] == ["> 20x", "> 40x"]
    assert last_line([found], WAYS) == "ahead in all 1 faults"


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (row({"plain": [Try(2.0)]}, 2.0, 1.0), "behind in rank killed, ours (2.0 against 2.0 s)"),
        (row({"plain": [Try(0.5)]}, 2.0, 0.4), "behind in rank killed, ours (2.0 against 0.5 s)"),
        (
            Row("rank killed", {"plain": [GONE]}, {"ours": [MUTE], "prewarmed": [Try(1.0)]}),
            "behind in rank killed, ours (no step against inf s)",
        ),
        (
            Row("rank killed", {"plain": [Try(9.0)]}, {"ours": [Try(1.0)]}),
            "behind in rank killed, prewarmed (not tried against 9.0 s)",
        ),
    ],
)
def test_each_of_our_ways_has_to_be_ahead(bad: Row, words: str) -> None:
    good = row({"plain": [Try(9.0)]}, 2.0, 1.0, fault="node killed")
    assert last_line([good, bad], WAYS) == words


def test_the_table_has_a_line_for_each_way_of_the_other_side() -> None:
    joins = row({"tuned": [Try(5.0)], "plain": [MUTE]}, 2.0, 1.0, fault="joins")
    lines = [line.split() for line in table([joins, row({"tuned": [GONE]}, 4.0, 1.0)], WAYS).splitlines()]
    assert lines == [
        ["theirs", "ours", "prewarmed"],
        ["joins", "tuned", "5.0", "2.0", "2.5x", "1.0", "5.0x"],
        ["plain", "no", "step"],
        ["rank", "killed", "tuned", "job", "lost", "4.0", ">", "10x", "1.0", ">", "40x"],
    ]
