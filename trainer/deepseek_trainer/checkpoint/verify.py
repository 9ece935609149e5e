"""Whether a checkpoint is what was committed, byte for byte. Needs no torch, so that listing is quick."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

from deepseek_trainer import durable
from deepseek_trainer.checkpoint import layout
from deepseek_trainer.checkpoint.layout import Manifest
from deepseek_trainer.errors import UnavailableError

UNCOMMITTED = "it was never committed"
_DAMAGE = (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EUCLEAN, errno.EBADMSG)
"""Errors that say what is on the disk; others (permission, a server that is away) say nothing about it."""


def verify(checkpoint: Path, *, content: bool = True) -> tuple[str, Manifest | None]:
    """What is wrong with a committed checkpoint, or its manifest.

    Args:
        content: hash every file; else only their sizes are looked at.

    Raises:
        UnavailableError: it may be whole, but can't be read.
    """
    try:
        return _judge(checkpoint, content)
    except OSError as error:
        if error.errno not in _DAMAGE:
            raise UnavailableError(
                f"{error.filename or checkpoint} can't be read: {error.strerror}; correct what the volume allows, or move "
                f"{checkpoint.name} elsewhere to go on without it"
            ) from error
        return f"{Path(error.filename or checkpoint).name} can't be read: {error.strerror}", None


def _judge(checkpoint: Path, content: bool) -> tuple[str, Manifest | None]:
    said = (checkpoint / layout.MANIFEST).read_bytes()
    committed = (checkpoint / layout.COMMITTED).read_bytes()
    if hashlib.sha256(said).hexdigest().encode() != committed.strip():
        return f"{layout.MANIFEST} differs from the sha256 in {layout.COMMITTED}", None
    try:
        manifest = layout.parse_manifest(said)
    except (ValueError, TypeError) as error:
        return f"its manifest can't be read: {error}", None
    if manifest.ledger.get("step") != manifest.step:
        return f"its ledger is at step {manifest.ledger.get('step')}, its weights at {manifest.step}", None
    for name, expected in manifest.files.items():
        problem = durable.difference(checkpoint / name, expected, content=content)
        if problem:
            return problem, None
    return "", manifest
