"""The table of causes in docs/lifecycle.md, from the rows that the operator goes by."""

from __future__ import annotations

from deepseek_operator.decide.causes import TABLE
from sections import renewed

BEGIN = "<!-- causes: written by `make generate` from decide/causes.py -->"
END = "<!-- end of causes -->"


def with_causes(text: str) -> str:
    """The document with its table renewed."""
    lines = ["| the evidence | cause |", "| --- | --- |"]
    lines += [f"| {row.evidence} | {row.cause} |" for row in TABLE]
    return renewed(text, BEGIN, END, lines)
