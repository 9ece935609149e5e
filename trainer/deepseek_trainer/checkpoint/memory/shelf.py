"""Files of a checkpoint in a folder in memory, each under the sha256 of its content: whatever else is true of it, it is
what a manifest with that sha256 names, or it is not used.

A file appears whole, by a rename. What is being written has a name that begins with a dot, and is deleted by the next start.
Where there is no room the oldest files go first, as they are of a checkpoint before; then the new one is given up.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
from collections.abc import Collection
from pathlib import Path

from deepseek_trainer.checkpoint.memory import room

log = logging.getLogger(__name__)

NAME = re.compile(r"[0-9a-f]{64}")
PIECE = 32 * 2**20
"""Bytes between two looks at the room that is left."""


class Shelf:
    """The folder of one node; several processes of the node may use it."""

    def __init__(self, folder: Path, limit: int) -> None:
        """Args:
        limit: bytes that all files may have together.

        Raises:
            OSError: the folder can't be made.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.limit = folder, limit

    def held(self) -> dict[str, int]:
        """Sizes of the files that are there, by their sha256."""
        sizes = {}
        for path in self.folder.iterdir():
            if NAME.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):  # another process has just deleted it
                    sizes[path.name] = path.stat().st_size
        return sizes

    def path(self, sha256: str) -> Path:
        return self.folder / sha256

    def clean(self) -> None:
        """Deletes what an earlier process has not finished."""
        for path in self.folder.glob(".*"):
            path.unlink(missing_ok=True)

    def keep_only(self, wanted: Collection[str]) -> None:
        """Deletes every finished file that isn't wanted."""
        for path in self.folder.iterdir():
            if NAME.fullmatch(path.name) and path.name not in wanted:
                path.unlink(missing_ok=True)

    def copy(self, *, instead: bool = True) -> ShelfCopy:
        """A file that is about to be written.

        Args:
            instead: the oldest files go where there is no room for it.
        """
        return ShelfCopy(self, self._by_age() if instead else [])

    def _by_age(self) -> list[str]:
        ages = {}
        with contextlib.suppress(OSError):
            for name in self.held():
                ages[name] = self.path(name).stat().st_mtime
        return sorted(ages, key=lambda name: ages[name])


class ShelfCopy:
    """A file on its way. It never fails: with a problem it is given up, with a line in the log."""

    def __init__(self, shelf: Shelf, older: list[str]) -> None:
        self._shelf, self._older, self._allowed = shelf, older, 0
        self.given_up = ""
        """Why there is no such file."""
        self._path = shelf.folder / f".{os.getpid()}-{secrets.token_hex(4)}"
        try:
            self._file = self._path.open("wb")
        except OSError as error:
            self.given_up = f"it can't be written: {error.strerror}"
            log.warning("not kept in memory: %s", self.given_up)

    def write(self, piece: memoryview) -> None:
        if self.given_up:
            return
        try:
            if self._allowed < len(piece):
                self._make_room(len(piece))
            self._allowed -= len(piece)
            if not self.given_up:
                self._file.write(piece)
        except OSError as error:
            self._give_up(error.strerror or str(error))

    def finish(self, sha256: str) -> None:
        """The file is whole, and is what it is named for."""
        if self.given_up:
            return
        try:
            self._file.close()
            self._path.rename(self._shelf.path(sha256))
        except OSError as error:
            self._give_up(error.strerror or str(error))

    def abandon(self) -> None:
        """It isn't written to its end."""
        if not self.given_up:
            self.given_up = "it was not written to its end"
            self._delete()

    def _make_room(self, needed: int) -> None:
        self._file.flush()  # so that it counts
        while (left := room.left(self._shelf.folder, self._shelf.limit)) < needed:
            if not self._older:
                self._give_up(f"{max(0, left)} bytes are left of checkpoint.memory.size or of the memory limit")
                return
            self._shelf.path(self._older.pop(0)).unlink(missing_ok=True)
        self._allowed = min(left, needed + PIECE)

    def _give_up(self, reason: str) -> None:
        self.given_up = reason
        log.warning("not kept in memory: %s", reason)
        self._delete()

    def _delete(self) -> None:
        try:
            self._path.unlink(missing_ok=True)
            self._file.close()
        except OSError:
            log.debug("a file in memory could not be closed", exc_info=True)
