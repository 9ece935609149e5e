"""The table of causes in docs/lifecycle.md, from the rows that the operator goes by."""

from __future__ import annotations

from deepseek_operator.decide.causes import TABLE

BEGIN = "<!-- causes: written by `make generate` from decide/causes.py -->"
END = "<!-- end of causes -->"


def with_causes(text: str) -> str:
    """The document with its table renewed."""
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    lines = ["| the evidence | cause |", "| --- | --- |"]
    lines += [f"| {row.evidence} | {row.cause} |" for row in TABLE]
    return f"{head}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{tail}"
