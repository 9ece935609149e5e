"""The checkpoints of a job's folder, as `dsj checkpoints` shows them. Needs no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deepseek_trainer.checkpoint import layout, probation
from deepseek_trainer.checkpoint.layout import Manifest
from deepseek_trainer.checkpoint.verify import UNCOMMITTED, verify
from deepseek_trainer.contract import TERMINATION_LOG_MAX_BYTES
from deepseek_trainer.errors import DataError, UnavailableError

ROOM = 200
"""Bytes of a short answer that are not for checkpoints."""


def checkpoints(folder: Path, *, content: bool = False) -> list[dict[str, Any]]:
    """What is known of each, newest first, as JSON.

    Args:
        content: hash every file, as a start does; else a checkpoint counts as whole if all sizes are right.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give the job's folder on the checkpoint volume")
    return [_row(path, step, content) for step, path in layout.checkpoints(folder)]


def trust(folder: Path, step: int) -> None:
    """Has a checkpoint count again that was marked bad.

    Raises:
        DataError: there is no such checkpoint.
        UnavailableError: the volume doesn't let it.
    """
    checkpoint = layout.checkpoint_folder(folder, step)
    if not checkpoint.is_dir():
        raise DataError(f"{folder} has no checkpoint of step {step}")
    try:
        probation.trust(checkpoint)
    except OSError as error:
        raise UnavailableError(f"{error.filename or folder} can't be deleted: {error.strerror}") from error


def brief(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of an answer what fits into a pod's last words: the newest ones, and how many are left out."""
    kept = [{name: value for name, value in row.items() if value is not None} for row in rows]
    while len(json.dumps(kept)) > TERMINATION_LOG_MAX_BYTES - ROOM:
        kept.pop()
    return {"checkpoints": kept, "leftOut": len(rows) - len(kept)}


def _row(checkpoint: Path, step: int, content: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"step": step, "state": "whole", "problem": None}
    if not (checkpoint / layout.COMMITTED).exists():
        return row | {"state": "uncommitted", "problem": UNCOMMITTED}
    try:
        problem, manifest = verify(checkpoint, content=content)
    except UnavailableError as error:
        return row | {"state": "unreadable", "problem": str(error)[:ROOM]}
    if manifest is None:
        return row | {"state": "damaged", "problem": problem[:ROOM]}
    if bad := probation.verdict(checkpoint):
        row |= {"state": "bad", "problem": bad[:ROOM]}
    return row | facts(manifest, verified=content or layout.is_marked(checkpoint, layout.VERIFIED))


def facts(manifest: Manifest, *, verified: bool) -> dict[str, Any]:
    """What is shown of a whole checkpoint."""
    return {
        "verified": verified,
        "time": manifest.time,
        "bytes": manifest.bytes,
        "worldSize": manifest.world_size,
        "samples": manifest.ledger.get("position"),
        "tokens": manifest.tokens,
        "loss": manifest.loss,
        "seconds": manifest.seconds,
    }
