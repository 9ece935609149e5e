"""Samples that somebody keeps in LMDB: each value a record as JSON, or a text as it is; read in the order of the keys.

A value that begins with `{` is JSON. The database is opened for reading, without a lock, so that it may lie on a volume
that can't be written.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepseek_trainer.config import ConfigError
from deepseek_trainer.errors import DataError

SUFFIX = ".lmdb"


def file_of(path: Path) -> Path:
    """The file of a database, which may be given as its folder."""
    return path / "data.mdb" if path.is_dir() else path


def cut(path: str, size: int) -> list[tuple[int, int, int]]:
    """Ranges of entries of about `size` bytes each, and what each has.

    Raises:
        DataError: it is no LMDB database.
        ConfigError: the package is missing.
    """
    with _transaction(path) as transaction:
        found = transaction.stat()
    entries, bytes_ = found["entries"], found["psize"] * (found["leaf_pages"] + found["overflow_pages"])
    step = max(1, entries * size // max(1, bytes_))
    starts = range(0, entries, step)
    return [(start, min(start + step, entries), bytes_ * min(step, entries - start) // entries) for start in starts]


def digest(path: str, start: int, end: int) -> str:
    """sha256 over the keys and values of entries [start, end)."""
    found = hashlib.sha256()
    for part in itertools.chain.from_iterable(_entries(path, start, end)):
        found.update(len(part).to_bytes(8))
        found.update(part)
    return found.hexdigest()


def values(path: str, start: int, end: int) -> Iterator[tuple[int, Any, str]]:
    """Entries [start, end): its number from 1, and its record, or None and why it can't be read."""
    for number, (_, content) in enumerate(_entries(path, start, end), start=start + 1):
        try:
            text = content.decode()
            yield number, json.loads(text) if text.startswith("{") else text, ""
        except UnicodeDecodeError as error:
            yield number, None, f"byte {error.start} of the value is not UTF-8"
        except (ValueError, RecursionError) as error:
            yield number, None, f"not JSON: {error}"


def _entries(path: str, start: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    with _transaction(path) as transaction:
        cursor = transaction.cursor()
        keys = cursor.iternext(keys=True, values=False)
        if next(itertools.islice(keys, start, None), None) is None:
            return
        yield from itertools.islice(cursor.iternext(), end - start)


@contextmanager
def _transaction(path: str) -> Iterator[Any]:
    try:
        import lmdb
    except ImportError as error:
        raise ConfigError(
            f"data.path {path}: LMDB needs the lmdb package in the image; install deepseek-trainer[lmdb]"
        ) from error
    try:
        with lmdb.open(path, subdir=False, readonly=True, lock=False, create=False) as opened, opened.begin() as found:
            yield found
    except lmdb.Error as error:
        raise DataError(f"{path}: not a whole LMDB database: {error}; copy it to the volume again") from error
