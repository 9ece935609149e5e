"""Fields of a manifest changed on the command line: `--set spec.trainer.training.steps=50`.

Only where a field is, is looked at here; whether it exists and may have that value is said by the manifest's own check,
with the field's path and the nearest valid name.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from deepseek_client.errors import ClientError

_PART = re.compile(r'\.?(?:"(?P<quoted>[^"]*)"|\[(?P<index>\d+)\]|(?P<name>[^.\[\]"=\s]+))')
TOP = ("spec", "metadata")


@dataclass(frozen=True)
class Override:
    """One field and its value.

    Attributes:
        text: as it was written.
        path: names, and numbers of entries in lists.
        value: None: the field is taken out.
    """

    text: str
    path: tuple[str | int, ...]
    value: Any


def parse(texts: Sequence[str]) -> list[Override]:
    """What PATH=VALUE says; the value is YAML, and one that is empty a text.

    Raises:
        ClientError: with the remedy.
    """
    return [_parse(text) for text in texts]


def applied(document: dict[str, Any], overrides: Sequence[Override]) -> dict[str, Any]:
    """A copy of the manifest with these fields, a later one over an earlier one. What is missing on the way is made.

    Raises:
        ClientError: a path goes through what has no fields, or beyond the end of a list.
    """
    changed = copy.deepcopy(document)
    for override in overrides:
        _apply(changed, override)
    return changed


def _parse(text: str) -> Override:
    path: list[str | int] = []
    end = 0
    while end < len(text) and text[end] != "=":
        found = _PART.match(text, end)
        if found is None:
            break
        path.append(int(found["index"]) if found["index"] else found["quoted"] or found["name"] or "")
        end = found.end()
    if not path or text[end : end + 1] != "=":
        raise ClientError(
            f"--set {text}: write PATH=VALUE, as spec.trainer.training.steps=50, spec.workers.env[0].value=x or "
            'spec.workers.labels."example.com/team"=x'
        )
    if path[0] not in TOP:
        raise ClientError(f"--set {text}: a path begins with spec or metadata; write spec.{text}")
    try:
        return Override(text, tuple(path), yaml.safe_load(text[end + 1 :]) if text[end + 1 :] else "")
    except yaml.YAMLError as error:
        raise ClientError(f"--set {text}: the value is not YAML; put a text in quotes") from error


def _apply(document: dict[str, Any], override: Override) -> None:
    *way, last = override.path
    here: Any = document
    for part, after in zip(way, override.path[1:], strict=True):
        _require(here, part, override)
        if isinstance(part, str) and here.get(part) is None:
            here[part] = [] if isinstance(after, int) else {}
        if isinstance(part, int) and part == len(here):
            here.append({})
        here = here[part]
    _require(here, last, override)
    if override.value is None and isinstance(here, dict):
        here.pop(last, None)
    elif isinstance(here, list) and last == len(here):
        here.append(override.value)
    else:
        here[last] = override.value


def _require(here: Any, part: str | int, override: Override) -> None:
    """Sees that there is, or may be made, such a part of what is here."""
    if isinstance(part, str) and isinstance(here, dict):
        return
    if isinstance(part, int) and isinstance(here, list):
        if part <= len(here):
            return
        raise ClientError(f"--set {override.text}: the list has {len(here)} entries, and [{part}] is beyond its end")
    what = "a value, which has no fields"
    if isinstance(here, list):
        what = "a list: write [0] for its first entry"
    elif isinstance(here, dict):
        what = "a section: it has names and no numbers"
    raise ClientError(f"--set {override.text}: {part!r} is looked for in {what}")
