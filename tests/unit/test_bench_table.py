"""The table and the last line of a bench that compares figures."""

from __future__ import annotations

import pytest
from support.bench_table import Row, figure, table, verdict


@pytest.mark.parametrize(
    ("row", "ratio", "ahead"),
    [
        (Row("speed", 30.0, 10.0, "tokens/s", "higher", "datasets"), 3.0, True),
        (Row("speed", 10.0, 10.0, "tokens/s", "higher", "datasets"), 1.0, False),
        (Row("wait", 2.0, 10.0, "s", "lower", "torchdata"), 5.0, True),
        (Row("wait", 0.0, 10.0, "s", "lower", "torchdata"), float("inf"), True),
        (Row("wait", 20.0, 10.0, "s", "lower", "torchdata"), 0.5, False),
        (Row("share", 0.01, 0.01, "", "lower"), 1.0, True),
        (Row("share", 0.02, 0.01, "", "lower"), 0.5, False),
    ],
)
def test_others_are_to_be_passed_and_a_target_to_be_reached(row: Row, ratio: float, ahead: bool) -> None:
    assert (row.ratio, row.ahead) == (ratio, ahead)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (1234567.0, "1,234,567"), (0.0123, "0.0123"), (0.00001, "1.0e-05"), (12.345, "12.3")],
)
def test_a_figure_has_the_digits_that_mean_something(value: float, shown: str) -> None:
    assert figure(value) == shown


def test_the_last_line_names_what_is_behind_and_why() -> None:
    good = Row("speed", 30.0, 10.0, "tokens/s", "higher", "datasets", note="never shown")
    bad = Row("wait", 20.0, 10.0, "s", "lower", "torchdata", note="one thread")
    assert verdict([good]) == "ahead in all 1 rows"
    assert verdict([good, bad]) == "behind in wait (20 against 10 s): one thread"
    assert [line.split() for line in table([good, bad]).splitlines()] == [
        ["ours", "theirs", "unit", "ratio", "better", "against"],
        ["speed", "30", "10", "tokens/s", "3x", "higher", "datasets"],
        ["wait", "20", "10", "s", "0.5x", "lower", "torchdata"],
    ]
