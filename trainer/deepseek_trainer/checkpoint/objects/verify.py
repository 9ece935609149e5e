"""Whether a save is what was committed, byte for byte. Needs no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from deepseek_trainer.checkpoint.layout import Manifest
from deepseek_trainer.checkpoint.objects.layout import DAMAGED, MANIFEST, Save, View
from deepseek_trainer.checkpoint.objects.store import BLOCK, Store

THREADS = 4
"""Objects that one process reads at a time."""
Files = Mapping[str, Mapping[str, Any]]
"""Of a manifest: size and sha256 by name."""


def is_committed(view: View, save: Save) -> bool:
    """Whether a save has a manifest, which may also say that it is void, and no later reading has found it damaged."""
    return view.has(save, MANIFEST) and not view.has(save, DAMAGED)


def sizes(view: View, save: Save, manifest: Manifest) -> str:
    """What a listing says is wrong with a save; "" for nothing."""
    found = view.of(save)
    for name, entry in manifest.files.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != entry["bytes"]:
            return f"{name} has {found[name]} bytes instead of {entry['bytes']}"
    return ""


def content(store: Store, save: Save, files: Files, *, rank: int = 0, ranks: int = 1) -> str:
    """What is wrong with the objects of this rank's share, each of which is read and hashed; "" for nothing.

    Args:
        files: of the manifest, or some of them.

    Raises:
        UnavailableError: it may be whole, but can't be read.
    """
    share = sorted(files.items(), key=lambda entry: -int(entry[1]["bytes"]))[rank::ranks]
    with ThreadPoolExecutor(THREADS) as pool:
        problems = pool.map(lambda entry: difference(store, save, *entry), share)
        return next(filter(None, problems), "")


def difference(store: Store, save: Save, name: str, expected: Mapping[str, Any]) -> str:
    """What is wrong with an object, which is read and hashed; "" for nothing."""
    digest, size = hashlib.sha256(), 0
    try:
        with store.reading(save.key(name), expected["bytes"]) as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
                size += len(block)
    except FileNotFoundError:
        return f"{name} is missing"
    if size != expected["bytes"]:
        return f"{name} has {size} bytes instead of {expected['bytes']}"
    return "" if digest.hexdigest() == expected["sha256"] else f"{name} differs from its sha256"
