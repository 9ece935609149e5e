"""The table and the last line of a bench: what we do beside what others do, in one run. Pure.

The last line of every bench begins with `ahead` or with `behind in`, so that a script can tell them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        against: whose figure `theirs` is: a library's name, or `target`.
        better: which of two figures is the better one. A target is reached by a figure equal to it.
        note: why we are behind, where it is known; printed only then.
    """

    name: str
    ours: float
    theirs: float
    unit: str
    better: Literal["higher", "lower"] = "higher"
    against: str = "target"
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times better ours is; below one it is worse."""
        good, bad = (self.ours, self.theirs) if self.better == "higher" else (self.theirs, self.ours)
        return good / bad if bad else float("inf")

    @property
    def ahead(self) -> bool:
        return self.ratio >= 1 if self.against == "target" else self.ratio > 1

    @property
    def missed(self) -> str:
        """The row as one of those that we are behind in."""
        figures = f"{figure(self.ours)} against {figure(self.theirs)} {self.unit}".rstrip()
        return f"{self.name} ({figures})" + (f": {self.note}" if self.note else "")


def figure(value: float) -> str:
    """A number in the three digits or so that a bench can vouch for."""
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [
        [
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def table(rows: Sequence[Row]) -> str:
    """A line a comparison."""
    head = ("", "ours", "theirs", "unit", "ratio", "better", "against")
    lines = [
        (row.name, figure(row.ours), figure(row.theirs), row.unit, f"{row.ratio:.3g}x", row.better, row.against)
        for row in rows
    ]
    return aligned([head, *lines])


def last_line(missed: Sequence[str], whole: str) -> str:
    """The verdict of a bench.

    Args:
        missed: what we are behind in, each with its figures.
        whole: what we are ahead in if it is nothing: "all 5 rows".
    """
    return f"behind in {'; '.join(missed)}" if missed else f"ahead in {whole}"


def verdict(rows: Sequence[Row]) -> str:
    """The last line of a bench that is rows alone."""
    return last_line([row.missed for row in rows if not row.ahead], f"all {len(rows)} rows")
