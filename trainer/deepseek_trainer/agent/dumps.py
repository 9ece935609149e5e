"""The folders with what was found at hangs: `hangs/generation-7-round-2/rank-3.txt` beside the checkpoints.

Bounded in number and in size, so that a job that hangs for weeks doesn't fill its volume. Several agents write into one
folder and prune at the same time; what is gone already is fine.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

FOLDER = "hangs"
KEPT = 8
"""Folders that are left, the newest ones."""
FILE_MAX_BYTES = 256 * 1024
FLIGHT_MAX_BYTES = 32 * 1024 * 1024
_NAME = re.compile(r"generation-(\d+)-round-(\d+)")
_CUT = b"\n[cut]\n"


def folder_of(root: Path, generation: int, round_number: int) -> Path:
    """Where the ranks of that round are described."""
    return root / FOLDER / f"generation-{generation}-round-{round_number}"


def limit_of(name: str) -> int:
    """Most bytes of a file of that name."""
    return FLIGHT_MAX_BYTES if name.endswith(".flight") else FILE_MAX_BYTES


def write(folder: Path, name: str, content: bytes, limit: int = FILE_MAX_BYTES) -> None:
    """Writes one file, cut to the limit.

    Raises:
        OSError: the volume is full, read-only or gone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cut = content if len(content) <= limit else content[: limit - len(_CUT)] + _CUT
    (folder / name).write_bytes(cut)


def prune(root: Path) -> None:
    """Removes all but the newest folders."""
    folder = root / FOLDER
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    for name in outdated(names):
        shutil.rmtree(folder / name, ignore_errors=True)


def outdated(names: list[str], kept: int = KEPT) -> list[str]:
    """Which of these folders go; what has another name is not ours."""
    ours = sorted((int(found[1]), int(found[2]), name) for name in names if (found := _NAME.fullmatch(name)))
    return [name for *_, name in ours[: max(0, len(ours) - kept)]]
