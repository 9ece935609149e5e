"""Numbers as people read them, for tables and the live display. Pure."""

from __future__ import annotations

from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """The last values as bars, scaled to their own range; the mean of each group where there are more than width."""
    if not values:
        return ""
    groups = min(width, len(values))
    means = []
    for index in range(groups):
        part = values[index * len(values) // groups : (index + 1) * len(values) // groups]
        means.append(sum(part) / len(part))
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1))] for value in means)


def duration(seconds: float | None) -> str:
    """1h02m03s; an em dash where it isn't known."""
    if seconds is None:
        return "—"
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes:02d}m{left:02d}s"
    return f"{minutes}m{left:02d}s" if minutes else f"{left}s"


def number(value: float | None, digits: int = 4) -> str:
    """Fixed digits; an em dash where it isn't known."""
    return "—" if value is None else f"{value:.{digits}f}"


def count(value: float | None) -> str:
    """Thousands separated; an em dash where it isn't known."""
    return "—" if value is None else f"{value:,.0f}"
