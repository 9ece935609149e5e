"""Hashing beside writing: nothing is read back to be hashed.

`hashlib` lets go of Python's lock, so that one thread hashes a piece while another writes it. And what is written is on its way
to the disk at once, and then out of the kernel's cache: the memory of a few windows is used again and again, where a
shard would otherwise take as many new pages as it has, within the container's limit, and be waited for at the end.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

from torch.distributed.checkpoint.filesystem import FileSystem

APART = 256 * 1024
"""Bytes of a piece for which it is worth to have another thread hash it."""
WINDOW = 16 * 2**20
"""Bytes after which the disk is given what has been written."""
LAG = 4
"""Windows that may be on their way to it."""


Described = dict[str, dict[str, Any]]
"""Size and sha256 by the name of a file or an object: {"bytes": int, "sha256": str}."""


class Copy(Protocol):
    """What takes a second copy of a file while it is written. It never fails: a copy is nothing that a save depends on."""

    def write(self, piece: memoryview) -> None: ...
    def finish(self, sha256: str) -> None:
        """The file is whole."""

    def abandon(self) -> None:
        """The file isn't written to its end."""


class HashedFiles(FileSystem):
    """The file system of a `FileSystemWriter` that knows what was written, and has it on the disk.

    Attributes:
        described: what was written.
    """

    def __init__(self, copies: Callable[[], Copy] | None = None) -> None:
        self.described: Described = {}
        self._copies = copies

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        """A file to be written from its beginning to its end; it is on the disk when this ends."""
        copy = self._copies() if self._copies else None
        try:
            with Path(path).open(mode) as file, ThreadPoolExecutor(1, "hash") as apart:
                stream = HashedFile(cast(io.BufferedWriter, file), apart, copy)
                yield stream
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            if copy is not None:
                copy.abandon()
            raise
        described = stream.describe()
        if copy is not None:
            copy.finish(described["sha256"])
        self.described[Path(path).name] = described

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        super().rename(path, new_path)
        self.described[Path(new_path).name] = self.described.pop(Path(path).name)


class Hashing(io.RawIOBase):
    """Passes on what is written, and hashes it. It can't be sought in, so that what is hashed is what is written."""

    def __init__(self) -> None:
        super().__init__()
        self._digest, self._bytes = hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = memoryview(data).cast("B")
        self._pass_on(piece)
        self._bytes += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._bytes

    def describe(self) -> dict[str, Any]:
        """As `durable.describe`."""
        return {"bytes": self._bytes, "sha256": self._digest.hexdigest()}

    def _pass_on(self, piece: memoryview) -> None:
        """Writes and hashes a piece; its memory is the caller's, and free when this returns."""
        raise NotImplementedError


class HashedFile(Hashing):
    """A file on a volume: a large piece is hashed beside its writing. What makes it durable is the sync at its end alone."""

    def __init__(self, file: io.BufferedWriter, apart: ThreadPoolExecutor, copy: Copy | None = None) -> None:
        super().__init__()
        self._file, self._apart, self._copy = file, apart, copy
        self._written = self._told = 0

    def _pass_on(self, piece: memoryview) -> None:
        hashed = self._apart.submit(self._digest.update, piece) if len(piece) >= APART else None
        if hashed is None:
            self._digest.update(piece)
        try:
            for first in range(0, len(piece), WINDOW):
                self._write(piece[first : first + WINDOW])
        finally:
            if hashed is not None:
                hashed.result()

    def _write(self, piece: memoryview) -> None:
        self._file.write(piece)
        if self._copy is not None:
            self._copy.write(piece)
        self._written += len(piece)
        if self._written - self._told >= WINDOW:
            since = max(0, self._told - LAG * WINDOW)
            os.posix_fadvise(self._file.fileno(), since, self._written - since, os.POSIX_FADV_DONTNEED)
            self._told = self._written
