"""Hashing beside writing: nothing is read back to be hashed.

`hashlib` lets go of Python's lock, so that one thread hashes a piece while another writes it.
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
    """A file on a volume: a large piece is hashed beside its writing."""

    def __init__(self, file: io.BufferedWriter, apart: ThreadPoolExecutor, copy: Copy | None = None) -> None:
        super().__init__()
        self._file, self._apart, self._copy = file, apart, copy

    def _pass_on(self, piece: memoryview) -> None:
        hashed = self._apart.submit(self._digest.update, piece) if len(piece) >= APART else None
        if hashed is None:
            self._digest.update(piece)
        try:
            self._file.write(piece)
            if self._copy is not None:
                self._copy.write(piece)
        finally:
            if hashed is not None:
                hashed.result()
