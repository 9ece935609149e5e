"""The table of values in the chart's README, from values.yaml and the comments in it.

A comment belongs to the key on the line below it. A map whose own keys have comments is a heading of theirs; any
other value is a row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from sections import renewed

BEGIN = "<!-- values: written by `make generate` from values.yaml -->"
END = "<!-- end of values -->"
_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z][\w]*):")


@dataclass(frozen=True, slots=True)
class Value:
    """One row: a dotted path, its default and what it is for."""

    path: str
    default: Any
    description: str


def values(text: str) -> list[Value]:
    """The documented values, in the file's order.

    Raises:
        ValueError: a value without a comment.
    """
    tree = yaml.safe_load(text)
    documented = list(_documented(text))
    headings = {".".join(path[:depth]) for path, _ in documented for depth in range(1, len(path))}
    rows = [
        Value(".".join(path), _at(tree, path), comment)
        for path, comment in documented
        if ".".join(path) not in headings
    ]
    covered = tuple(row.path for row in rows)
    for leaf in _leaves(tree):
        if not any(leaf == path or leaf.startswith(f"{path}.") for path in covered):
            raise ValueError(f"values.yaml: {leaf} has no comment; say above it what it is for")
    return rows


def with_table(readme: str, values_text: str) -> str:
    """The README with its table renewed."""
    lines = ["| value | default | what for |", "| --- | --- | --- |"]
    for row in values(values_text):
        lines.append(f"| `{row.path}` | `{json.dumps(row.default, ensure_ascii=False)}` | {row.description} |")
    return renewed(readme, BEGIN, END, lines)


def _documented(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each key that has a comment, by its path."""
    comment: list[str] = []
    parents: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.lstrip("# "))
            continue
        if match := _KEY.match(line):
            depth = len(match["indent"]) // 2
            parents = [*parents[:depth], match["key"]]
            if comment:
                yield tuple(parents), " ".join(comment)
        comment = []


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
