"""Parts of hand-written documents that are written by `make generate`, between two comments."""

from __future__ import annotations

from collections.abc import Iterable


def renewed(text: str, begin: str, end: str, lines: Iterable[str]) -> str:
    """The document with these lines between its two comments."""
    head, rest = text.split(begin)
    tail = rest.split(end)[1]
    return f"{head}{begin}\n" + "\n".join(lines) + f"\n{end}{tail}"
