"""Files that survive a power cut: written, flushed to the disk, and named only then."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any) -> None:
    """Writes value as JSON and returns when it is on the disk."""
    write_bytes(path, _json(value))


def replace_json(path: Path, value: Any) -> None:
    """As `replace_bytes`, with JSON."""
    replace_bytes(path, _json(value))


def write_bytes(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def append_line(path: Path, line: str) -> None:
    """Appends one line in one write; one that was torn before it stays a line of its own."""
    with path.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        torn = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * torn + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def rename(source: Path, target: Path) -> None:
    """Renames within one folder, and returns when the new name is on the disk."""
    source.rename(target)
    sync_folder(target.parent)


def rename_once(source: Path, target: Path, *, is_whole: Callable[[], bool]) -> None:
    """Renames a folder; of several who bring the same one wins, and the others take the winner's if it is whole."""
    try:
        rename(source, target)
    except OSError:
        if not is_whole():  # it is nobody else's: a real failure
            raise


def replace_bytes(path: Path, content: bytes) -> None:
    """A file with this content appears in its folder as a whole, or not at all, whoever else writes it."""
    scratch = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}")
    write_bytes(scratch, content)
    scratch.rename(path)


def sync(path: Path) -> None:
    """Returns when the content of a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Returns when the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def describe(path: Path) -> dict[str, Any]:
    """Size and hash of a file: {"bytes": int, "sha256": str}."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def difference(path: Path, expected: Mapping[str, Any], *, content: bool = True) -> str | None:
    """What is wrong with a file that was once described so; None when nothing is. Without content only its size counts."""
    try:
        size = path.stat().st_size
        if size != expected["bytes"]:
            return f"{path.name} has {size} bytes instead of {expected['bytes']}"
        if content and describe(path)["sha256"] != expected["sha256"]:
            return f"{path.name} differs from its sha256"
    except FileNotFoundError:
        return f"{path.name} is missing"
    return None


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
