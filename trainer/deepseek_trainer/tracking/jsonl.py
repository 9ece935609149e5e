"""metrics.jsonl: a line for each record, {"step": …, "time": …, "train/loss": …}, behind a first line that names the job.

To go on from a step is to cut off what is behind it. A line that a full disk or a crash has torn is cut off, too: what
is in the file is whole lines, always.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepseek_trainer.tracking.record import Place, Record

FILE = "metrics.jsonl"


class Jsonl:
    """The file, open for its next line."""

    def __init__(self, place: Place, after: int | None) -> None:
        """Raises OSError where the volume is full or read-only."""
        place.directory.mkdir(parents=True, exist_ok=True)
        path = place.directory / FILE
        if after is None:
            _put_aside(path, place)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            end = _whole(path, after)
            os.ftruncate(self._file, end)
            if not end:
                self._append(_line({"job": place.job, "uid": place.uid}))
        except OSError:
            os.close(self._file)
            raise

    def write(self, records: Sequence[Record]) -> None:
        lines = ({"step": one.step, "time": round(one.time_s, 3), **one.values, **one.texts} for one in records)
        self._append(b"".join(map(_line, lines)))

    def close(self) -> None:
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)

    def _append(self, content: bytes) -> None:
        """All of it or nothing."""
        end, written = os.fstat(self._file).st_size, 0
        try:
            while written < len(content):
                written += os.write(self._file, content[written:])
        except OSError:
            os.ftruncate(self._file, end)
            raise


def _put_aside(path: Path, place: Place) -> None:
    """Another job's series stays, under its UID's name; one of this job, which starts over, is written anew."""
    try:
        with path.open("rb") as file:
            other = str(_parsed(file.readline()).get("uid", "unknown"))
    except FileNotFoundError:
        return
    if other != place.uid:
        path.rename(path.with_name(f"metrics-{''.join(c for c in other if c.isalnum() or c == '-')}.jsonl"))


def _whole(path: Path, after: int | None) -> int:
    """Bytes of the file up to the last line that stays."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            step = _parsed(line).get("step", 0) if end else -1
            if after is None or not line.endswith(b"\n") or not isinstance(step, int) or step > after:
                break
            end += len(line)
    return end


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {"step": None}
    return found if isinstance(found, dict) else {"step": None}


def _line(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, separators=(",", ":"), ensure_ascii=False) + "\n").encode()
