"""Whether a checkpoint is what was committed, byte for byte. Needs no torch, so that listing is quick."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from deepseek_trainer import durable
from deepseek_trainer.checkpoint import layout
from deepseek_trainer.checkpoint.layout import Manifest
from deepseek_trainer.errors import UnavailableError

T = TypeVar("T")
V = TypeVar("V")

UNCOMMITTED = "it was never committed"
THREADS_MAX = 8
"""Files that are hashed side by side: `hashlib` lets go of Python's lock."""
_DAMAGE = (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EUCLEAN, errno.EBADMSG)
"""Errors that say what is on the disk; others (permission, a server that is away) say nothing about it."""


class _Damage(Exception):
    """What is wrong with a checkpoint."""


def verify(checkpoint: Path, *, content: bool = True) -> tuple[str, Manifest | None]:
    """What is wrong with a committed checkpoint, or its manifest.

    Args:
        content: hash every file; else only their sizes are looked at.

    Raises:
        UnavailableError: it may be whole, but can't be read.
    """
    problem, manifest = claim(checkpoint)
    if manifest is not None:
        problem = difference(checkpoint, manifest.files, content=content)
    return problem, None if problem else manifest


def claim(checkpoint: Path) -> tuple[str, Manifest | None]:
    """The manifest of a committed checkpoint if it is what was committed, or what is wrong with it; of its files nothing is said.

    Raises:
        UnavailableError: it can't be read.
    """
    try:
        with _told(checkpoint):
            return "", _manifest(checkpoint)
    except _Damage as damage:
        return str(damage), None


def difference(checkpoint: Path, files: Mapping[str, Mapping[str, Any]], *, content: bool = True) -> str:
    """What is wrong with the first of these files that isn't what its manifest says; "" when nothing is.

    Raises:
        UnavailableError: one may be whole, but can't be read.
    """
    try:
        with _told(checkpoint):
            problems = side_by_side(
                lambda name: durable.difference(checkpoint / name, files[name], content=content), list(files)
            )
    except _Damage as damage:
        return str(damage)
    return next((problem for problem in problems if problem), "")


def side_by_side(work: Callable[[T], V], items: list[T]) -> list[V]:
    """The results in the order of the items, worked out in threads."""
    threads = min(len(items), THREADS_MAX, len(os.sched_getaffinity(0)))
    if threads < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads, "hash") as pool:
        return list(pool.map(work, items))


def _manifest(checkpoint: Path) -> Manifest:
    said = (checkpoint / layout.MANIFEST).read_bytes()
    committed = (checkpoint / layout.COMMITTED).read_bytes()
    if hashlib.sha256(said).hexdigest().encode() != committed.strip():
        raise _Damage(f"{layout.MANIFEST} differs from the sha256 in {layout.COMMITTED}")
    try:
        manifest = layout.parse_manifest(said)
    except (ValueError, TypeError) as error:
        raise _Damage(f"its manifest can't be read: {error}") from error
    if manifest.ledger.get("step") != manifest.step:
        raise _Damage(f"its ledger is at step {manifest.ledger.get('step')}, its weights at {manifest.step}")
    return manifest


@contextmanager
def _told(checkpoint: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _DAMAGE:
            raise UnavailableError(
                f"{error.filename or checkpoint} can't be read: {error.strerror}; correct what the volume allows, or move "
                f"{checkpoint.name} elsewhere to go on without it"
            ) from error
        raise _Damage(f"{Path(error.filename or checkpoint).name} can't be read: {error.strerror}") from error
