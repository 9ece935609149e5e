"""What decides about a save: the one object that is created last, a manifest, or the word that there will be none.

A start makes void what earlier ones have not committed. Both are created under the same key, on the condition that
nothing is there, so exactly one of them stands: a save that was thought to be dead can't commit any more, and one that
has committed can't be made void. Its content carries its own sha256, as an object's bytes may change later, too.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from deepseek_trainer.checkpoint.layout import Manifest, manifest_of
from deepseek_trainer.checkpoint.objects.layout import MANIFEST, Save
from deepseek_trainer.checkpoint.objects.store import Store


@dataclass(frozen=True)
class Void:
    """A save that never counts.

    Attributes:
        start: number of the start that decided it.
        time: RFC 3339, UTC.
    """

    start: int
    time: str


def encode(said: Manifest | Void) -> bytes:
    content = said.to_json() if isinstance(said, Manifest) else {"void": said.start, "time": said.time}
    return signed(content)


def decode(content: bytes) -> Manifest | Void:
    """What was encoded.

    Raises:
        ValueError, TypeError, KeyError: it is damaged.
    """
    said = opened(content)
    if "void" in said:
        return Void(int(said["void"]), str(said["time"]))
    return manifest_of(said)


def signed(content: dict[str, Any]) -> bytes:
    """JSON with its own sha256."""
    return json.dumps({"content": content, "sha256": _sum(content)}, indent=1, sort_keys=True).encode() + b"\n"


def opened(content: bytes) -> dict[str, Any]:
    """What `signed` was given.

    Raises:
        ValueError: it is damaged.
    """
    said = json.loads(content)
    if not isinstance(said, dict) or not isinstance(said.get("content"), dict):
        raise ValueError("it has no content")
    if said.get("sha256") != _sum(said["content"]):
        raise ValueError("it differs from its sha256")
    return dict(said["content"])


def _sum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Manifests:
    """The manifests of a store; each is read once, as none ever changes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, Manifest | Void | str] = {}

    def of(self, save: Save) -> Manifest | Void | str:
        """The one of a save that has one; a text says why it can't be used.

        Raises:
            UnavailableError: the store can't be read.
        """
        if save.name not in self._known:
            self._known[save.name] = self._read(save)
        return self._known[save.name]

    def _read(self, save: Save) -> Manifest | Void | str:
        content = self._store.read(save.key(MANIFEST))
        if content is None:
            return f"{MANIFEST} is missing"
        try:
            said = decode(content)
        except (ValueError, TypeError, KeyError) as error:
            return f"its manifest can't be read: {error}"
        if isinstance(said, Void):
            return said
        if not said.step == save.step == said.ledger.get("step"):
            return f"its ledger is at step {said.ledger.get('step')}, its weights at {said.step}"
        return said
