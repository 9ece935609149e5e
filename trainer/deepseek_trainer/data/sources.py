"""Where the text comes from: a named corpus, a dataset, or files on a volume, cut into pieces that can be read apart.

A piece is a range of a file: bytes of a `.txt` or of JSON lines, row groups of Parquet, entries of LMDB, else the whole
file. How files are cut depends on their sizes alone, so the order of documents is the same however many processes read
them.
Nothing here reads more of a file than its first bytes or its footer.
"""

from __future__ import annotations

import errno
import gzip
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepseek_trainer.config import DataSpec
from deepseek_trainer.data import corpora, lmdbfile, parquet
from deepseek_trainer.errors import DataError, TrainerError, UnavailableError

Kind = Literal["text", "lines", "array", "parquet", "lmdb"]

SUFFIXES = (".txt", ".json", ".jsonl", ".parquet", ".txt.gz", ".json.gz", ".jsonl.gz")
PIECE_BYTES = 4 * 2**20
PIECES_MAX = 8192
"""Of a file set: with more data the pieces grow."""
_PASSING = frozenset({"EIO", "ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EREMOTEIO", "ECONNRESET"})
"""What a network volume says while it is out of reach."""


@dataclass(frozen=True)
class File:
    """A file as it was when it was found.

    Attributes:
        name: below `data.path`, so that it is the same wherever the volume is mounted.
        state: changes when the file does: (size, mtime_ns, ctime_ns, inode).
    """

    path: str
    name: str
    state: tuple[int, int, int, int]

    @property
    def bytes(self) -> int:
        return self.state[0]


@dataclass(frozen=True)
class Source:
    """The files that `spec.data` means, in the order of their names; none of a dataset that is on the hub.

    Attributes:
        name: what the user called it: a corpus, a dataset or a path.
    """

    name: str
    files: tuple[File, ...]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


@dataclass(frozen=True)
class Piece:
    """A range of one file that can be read without the rest of it.

    Attributes:
        start, end: in bytes for text and JSON lines, in row groups of Parquet, in entries of LMDB, else 0 and the file's size.
        bytes: what is stored there.
        last: the file ends with it.
    """

    path: str
    name: str
    kind: Kind
    start: int
    end: int
    bytes: int
    last: bool

    @property
    def continues(self) -> bool:
        """Whether it goes on with the document of the piece before it."""
        return self.kind == "text" and self.start > 0


def find(spec: DataSpec, environ: Mapping[str, str], *, cache: Path) -> Source:
    """The files that `spec.data` asks for.

    Args:
        cache: where token stores are; what is in there is no text.

    Raises:
        DataError: there are none, or they can't be had.
        UnavailableError: the volume is out of reach.
    """
    if spec.corpus is not None:
        return Source(spec.corpus, (file_at(corpora.find(spec.corpus, environ)),))
    if spec.dataset is not None:
        local = Path(spec.dataset.name)
        return Source(spec.dataset.name, _dataset_files(local) if local.is_absolute() else ())
    assert spec.path is not None  # noqa: S101  DataSpec has exactly one of the three
    return Source(spec.path, _files(Path(spec.path), cache))


def pieces(source: Source, piece_bytes: int = PIECE_BYTES) -> list[Piece]:
    """The source cut into pieces of about so many bytes, in order.

    Raises:
        DataError: a file can't be read, or is not what its name says.
    """
    size = max(piece_bytes, source.bytes // PIECES_MAX)
    return list(itertools.chain.from_iterable(_cut(file, size) for file in source.files))


def file_at(path: Path) -> File:
    """A file by itself."""
    return file_in(path, path.parent)


def file_in(path: Path, base: Path) -> File:
    """A file as it is now, by its name below a folder.

    Raises:
        OSError: it isn't there, or the volume is out of reach.
    """
    found = path.stat()
    return File(
        str(path),
        path.relative_to(base).as_posix(),
        (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino),
    )


def unreadable(path: str | Path, error: OSError) -> TrainerError:
    """The error of a file that can't be read: the volume's, when it may pass."""
    text = f"{path}: {error.strerror or error}"
    if errno.errorcode.get(error.errno or 0) in _PASSING:
        return UnavailableError(f"{text}; is the volume with the data still there?")
    return DataError(f"{text}; see that the volume is mounted and readable for the workers' user")


def _files(path: Path, cache: Path) -> tuple[File, ...]:
    try:
        if path.name.endswith(lmdbfile.SUFFIX):
            return (file_in(lmdbfile.file_of(path), path.parent),)
        if path.is_file():
            if not path.name.endswith(SUFFIXES):
                raise DataError(f"data.path {path}: not a file of text; it must end in one of {' '.join(SUFFIXES)}")
            return (file_in(path, path.parent),)
        if not path.is_dir():
            path.stat()
            raise DataError(f"data.path {path}: neither a file nor a folder")
        found = [child for child in walk(path, cache) if child.name.endswith(SUFFIXES)]
        if not found:
            raise DataError(f"data.path {path}: no {' '.join(SUFFIXES)} file in this folder")
        return tuple(file_in(child, path) for child in sorted(found))
    except FileNotFoundError as error:
        raise DataError(
            f"data.path {path}: does not exist; mount the volume that has it, or correct the path"
        ) from error
    except OSError as error:
        raise unreadable(error.filename or path, error) from error


def _dataset_files(path: Path) -> tuple[File, ...]:
    """All files of a dataset on a volume, whatever they are: it changes when one of them does."""
    try:
        if not path.is_dir():
            raise DataError(
                f"data.dataset.name {path}: no such folder; mount the volume that has it, or correct the path"
            )
        return tuple(file_in(child, path) for child in sorted(walk(path, Path())))
    except OSError as error:
        raise unreadable(error.filename or path, error) from error


def walk(folder: Path, cache: Path) -> Iterator[Path]:
    """All files below but hidden ones; a folder that can't be listed is an error, not an absence."""

    def fail(error: OSError) -> None:
        raise error

    for root, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".") and Path(root, name) != cache]
        yield from (Path(root) / name for name in files if not name.startswith("."))


def _cut(file: File, size: int) -> Iterator[Piece]:
    try:
        kind = _kind(file.path)
        if kind == "parquet":
            ranges = parquet.cut(file.path, size)
        elif kind == "lmdb":
            ranges = lmdbfile.cut(file.path, size)
        elif kind == "array" or file.name.endswith(".gz"):
            ranges = [(0, file.bytes, file.bytes)]
        else:
            starts = range(0, file.bytes, size)
            ranges = [(start, min(start + size, file.bytes), min(size, file.bytes - start)) for start in starts]
    except (gzip.BadGzipFile, EOFError) as error:
        raise DataError(f"{file.path}: not a whole gzip file; copy it to the volume again") from error
    except OSError as error:
        raise unreadable(file.path, error) from error
    for number, (start, end, bytes_) in enumerate(ranges, start=1):
        yield Piece(file.path, file.name, kind, start, end, bytes_, last=number == len(ranges))


def _kind(path: str) -> Kind:
    if path.endswith(".parquet"):
        return "parquet"
    if path.endswith((lmdbfile.SUFFIX, ".mdb")):
        return "lmdb"
    if path.endswith((".txt", ".txt.gz")):
        return "text"
    if path.endswith((".jsonl", ".jsonl.gz")):
        return "lines"
    with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
        while head := file.read(1024):
            if stripped := head.lstrip(b" \t\r\n\xef\xbb\xbf"):
                return "array" if stripped.startswith(b"[") else "lines"
    return "lines"
