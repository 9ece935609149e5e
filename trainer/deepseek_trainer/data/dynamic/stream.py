"""A stream: a folder to which files are added while the job trains, until the empty file `_SUCCESS` says that it is whole.

Files come complete, by a rename, and their names sort in the order of arrival. That makes the order of shards the same
whoever looks, and whenever: rank 0's journal is what all go by, and it proves at each look that what it has given
numbers to is still as it was. What breaks the rule (a file that turns up late, changes or goes) would renumber shards, so
it ends the job, with its name.

The ledger remembers of files whose shards are all done how many there are, the last one's name and a hash over all
names and sizes; and by name those that were begun.
"""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from deepseek_trainer.data import sources
from deepseek_trainer.data.sources import File, Piece, Source
from deepseek_trainer.errors import DataError

SUCCESS = "_SUCCESS"
_START = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Arrived:
    """A file that has its place.

    Attributes:
        first: the lease of its first shard.
        digest: over the names and sizes of all files up to it.
    """

    file: File
    first: int
    pieces: tuple[Piece, ...]
    digest: str

    @property
    def after(self) -> int:
        """The lease after its last shard."""
        return self.first + len(self.pieces)


class Journal:
    """The files of a stream, as one process sees them. It reads names, sizes and times, and the footers of Parquet."""

    def __init__(self, folder: Path, cache: Path, piece_bytes: int, files: dict[str, Any]) -> None:
        """Args: files: of the ledger to go on from; empty at the beginning."""
        self._folder, self._cache, self._piece_bytes = folder, cache, piece_bytes
        self._resumed = files
        self._behind = 0
        """Files whose shards are all done; beyond them `_arrived` has all that are known."""
        self._names: list[str] = []
        self._arrived: list[Arrived] = []
        self._first, self._digest = 0, _START
        self._done_digest, self._done_leases = _START, 0
        self.ended = False

    def look(self) -> list[Arrived]:
        """What has arrived since the last look, in order.

        Raises:
            DataError: a file turned up late, changed or went, or can't be cut.
            UnavailableError: the volume is out of reach.
        """
        found, whole = self._list()
        names = found
        if self._resumed or whole or len(found) != len(self._names):
            names, _ = self._list()  # began when all that the first one has, and what sorts before it, was there
        if self._resumed:
            self._go_on(names)
        self._require_unchanged(names)
        reach = len(names) if whole else bisect.bisect_right(names, _key(found[-1]), key=_key) if found else 0
        self.ended = whole
        return [self._add(name) for name in names[len(self._names) : reach]]

    def files(self) -> Iterator[File]:
        """All that are known, from the first one; as they are now."""
        return map(self._file, list(self._names))

    def watermark(self, low: int, top: int) -> dict[str, Any]:
        """What the ledger remembers.

        Args:
            low: all leases below it are done.
            top: from here on nothing was trained.
        """
        while self._arrived and self._arrived[0].after <= low:
            gone = self._arrived.pop(0)
            self._behind += 1
            self._done_digest, self._done_leases = gone.digest, gone.after
        return {
            "count": self._behind,
            "last": self._names[self._behind - 1] if self._behind else "",
            "digest": self._done_digest,
            "leases": self._done_leases,
            "begun": [[known.file.name, known.file.bytes] for known in self._arrived if known.first < top],
        }

    def _list(self) -> tuple[list[str], bool]:
        """Names of all files of text, in order; and whether the stream is whole."""
        try:
            if not self._folder.is_dir():
                raise DataError(
                    f"data.path {self._folder}: no such folder; a stream is a folder: mount the volume that has it, or "
                    "correct the path"
                )
            paths = list(sources.walk(self._folder, self._cache))
        except OSError as error:
            raise sources.unreadable(error.filename or self._folder, error) from error
        names = [path.relative_to(self._folder).as_posix() for path in paths if path.name.endswith(sources.SUFFIXES)]
        return sorted(names, key=_key), self._folder / SUCCESS in paths

    def _add(self, name: str) -> Arrived:
        file = self._file(name)
        pieces = tuple(self.cut(file))
        self._digest = _linked(self._digest, file.name, file.bytes)
        arrived = Arrived(file, self._first, pieces, self._digest)
        self._first = arrived.after
        self._names.append(name)
        self._arrived.append(arrived)
        return arrived

    def cut(self, file: File) -> list[Piece]:
        """Its shards."""
        return sources.pieces(Source(file.name, (file,)), self._piece_bytes)

    def _file(self, name: str) -> File:
        try:
            return sources.file_in(self._folder / name, self._folder)
        except FileNotFoundError as error:
            raise self._gone(name) from error
        except OSError as error:
            raise sources.unreadable(self._folder / name, error) from error

    def _require_unchanged(self, names: list[str]) -> None:
        """What has a place is still there and as it was, and nothing came in between."""
        if names[: len(self._names)] != self._names:
            known, there = set(self._names), set(names)
            for name in self._names:
                if name not in there:
                    raise self._gone(name)
            raise self._late(next(name for name in names if name not in known))
        for arrived in self._arrived:
            if self._file(arrived.file.name).state != arrived.file.state:
                raise DataError(
                    f"data.path {self._folder}: {arrived.file.name} has changed since it arrived; a stream's files come "
                    "complete, by a rename, and stay as they are: put it back as it was"
                )

    def _go_on(self, names: list[str]) -> None:
        """Takes the place of the journal that the ledger is of.

        Raises:
            DataError: the files are others.
        """
        files, self._resumed = self._resumed, {}
        count, digest = int(files["count"]), _START
        behind = bisect.bisect_right(names, _key(files["last"]), key=_key) if count else 0
        if behind != count:
            newest = max(names[:behind], key=lambda name: self._file(name).state[2], default="")
            what = (
                f"{behind - count} of its files turned up late, {newest} perhaps: they sort before {files['last']}, which "
                "is trained; give them names that sort last"
                if behind > count
                else f"of the {count} files up to {files['last']}, which are trained, {count - behind} are gone; put them back: "
                "a stream's files stay until the job has ended"
            )
            raise DataError(f"data.path {self._folder}: {what}")
        for name in names[:count]:
            digest = _linked(digest, name, self._file(name).bytes)
        if digest != files["digest"]:
            raise DataError(
                f"data.path {self._folder}: of the {count} files up to {files['last']}, which are trained, one has another name "
                "or size now; put it back as it was"
            )
        for place, (name, bytes_) in enumerate(files["begun"], start=count):
            if name not in names:
                raise self._gone(name)
            if names[place] != name:
                raise self._late(names[place])
            if (now := self._file(name).bytes) != bytes_:
                raise DataError(
                    f"data.path {self._folder}: {name} had {bytes_} bytes, now {now}; put it back as it was"
                )
        self._names, self._behind = names[:count], count
        self._digest = self._done_digest = digest
        self._first = self._done_leases = int(files["leases"])

    def _gone(self, name: str) -> DataError:
        return DataError(
            f"data.path {self._folder}: {name} is gone; a stream's files stay until the job has ended: put it back"
        )

    def _late(self, name: str) -> DataError:
        return DataError(
            f"data.path {self._folder}: {name} turned up late: others that sort behind it were there before; names of a "
            "stream sort in the order of arrival: give it one that sorts last"
        )


def _key(name: str) -> tuple[str, ...]:
    return PurePosixPath(name).parts


def _linked(digest: str, name: str, bytes_: int) -> str:
    return hashlib.sha256((digest + json.dumps([name, bytes_])).encode()).hexdigest()
