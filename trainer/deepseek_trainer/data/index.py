"""The index of a store that is cut along its documents: made once, kept in the store's folder, memory-mapped.

    <store>/packed-128-v1/
      starts.bin       int64: first token of each piece, row after row
      lengths.bin      uint32: its length
      rows.bin         int64: first piece of each row, and the end; packed only, else each piece is a row
      manifest.json    what it is made from, and the sizes of the files

A document of n tokens has n - 1 that are predicted; where these are more than L it is split into pieces of L and a rest.
It is written window by window (20 bytes a document at most, a second for each half million), beside its name and renamed
when it is whole and on the disk. Sizes are checked when it is opened, as a read behind the end of a mapped file is no
error but a signal.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deepseek_trainer import durable
from deepseek_trainer.data import packing
from deepseek_trainer.data.cuts import Pieces
from deepseek_trainer.data.store import MANIFEST, TokenStore, mapped
from deepseek_trainer.errors import DataError, UnavailableError

FORMAT = 1
"""Raised when the same store would be cut in another way: a run can't go on with that."""
_TYPES = {"starts.bin": "int64", "lengths.bin": "uint32", "rows.bin": "int64"}
Kind = Literal["packed", "documents"]


@dataclass(frozen=True)
class Documents:
    """Samples that are whole documents, or parts of one that is too long: a cut of a store, see `cuts`.

    Attributes:
        starts, lengths: shape (pieces,), memory-mapped.
        rows: int64, shape (count + 1,), memory-mapped; None: each piece is a sample.
    """

    layout: str
    starts: NDArray[np.int64]
    lengths: NDArray[np.uint32]
    rows: NDArray[np.int64] | None

    @property
    def count(self) -> int:
        return len(self.starts) if self.rows is None else len(self.rows) - 1

    def pieces(self, samples: NDArray[np.int64]) -> Pieces:
        numbers, rows = samples, np.arange(len(samples), dtype=np.int64)
        if self.rows is not None:
            first, counts = self.rows[samples], self.rows[samples + 1] - self.rows[samples]
            rows = np.repeat(rows, counts)
            numbers = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(len(rows))
        return Pieces(self.starts[numbers], self.lengths[numbers].astype(np.int64), rows)


def layout(kind: Kind, length: int) -> str:
    return f"{kind}:{length}:v{FORMAT}"


def ensure(store: TokenStore, kind: Kind, length: int) -> Documents:
    """The index, from the store's folder or made there; whole in either case.

    Raises:
        DataError: no document has two tokens.
        UnavailableError: the folder can't be written.
    """
    folder = store.folder / layout(kind, length).replace(":", "-")
    try:
        if (found := _open(folder, kind, length)) is not None:
            return found
        _write(folder, store, kind, length)
        found = _open(folder, kind, length)
    except OSError as error:
        raise UnavailableError(f"{folder}: {error.strerror}; is dataCache full, or not writable?") from error
    if found is None:
        raise UnavailableError(f"{folder}: it was written, and can't be read; is dataCache a sound volume?")
    return found


def _open(folder: Path, kind: Kind, length: int) -> Documents | None:
    """None when it isn't there, or isn't whole."""
    try:
        sizes: dict[str, int] = json.loads((folder / MANIFEST).read_bytes())
        if any((folder / name).stat().st_size != size for name, size in sizes.items()):
            return None
    except (FileNotFoundError, ValueError):
        return None
    maps = {name: mapped(folder / name, _TYPES[name]) for name in sizes}
    return Documents(layout(kind, length), maps["starts.bin"], maps["lengths.bin"], maps.get("rows.bin"))


def _write(folder: Path, store: TokenStore, kind: Kind, length: int) -> None:
    """Of several who write the same index one wins, and the others take the winner's."""
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        new = scratch / "new"
        new.mkdir()
        _write_files(new, store, kind, length)
        if folder.exists() and _open(folder, kind, length) is None:
            folder.rename(scratch / "not-whole")
        durable.rename_once(new, folder, is_whole=lambda: _open(folder, kind, length) is not None)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_files(folder: Path, store: TokenStore, kind: Kind, length: int) -> None:
    names = [name for name in _TYPES if name != "rows.bin" or kind == "packed"]
    with ExitStack() as files:
        outputs = {name: files.enter_context((folder / name).open("wb")) for name in names}
        for window in _packed(store, length) if kind == "packed" else _windows(store, length):
            for name in names:
                outputs[name].write(window[name].astype(_TYPES[name]).tobytes())
    if not (folder / "starts.bin").stat().st_size:
        raise DataError("the data has no text: no document has two tokens")
    for name in names:
        durable.sync(folder / name)
    durable.write_json(folder / MANIFEST, {name: (folder / name).stat().st_size for name in names})
    durable.sync_folder(folder)


def _windows(store: TokenStore, length: int) -> Iterator[dict[str, NDArray[Any]]]:
    """The pieces of the documents, in their order, in windows of documents."""
    for begin in range(0, store.info.documents, packing.WINDOW):
        bounds = np.asarray(store.documents[begin : begin + packing.WINDOW + 1])
        inputs = np.diff(bounds) - 1
        counts = -(-inputs // length)
        nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        yield {
            "starts.bin": np.repeat(bounds[:-1], counts) + nth * length,
            "lengths.bin": np.minimum(length, np.repeat(inputs, counts) - nth * length),
        }


def _packed(store: TokenStore, length: int) -> Iterator[dict[str, NDArray[Any]]]:
    """The same, packed into rows."""
    written = 0
    for window in _windows(store, length):
        owners = packing.rows(window["lengths.bin"], length)
        in_rows = np.argsort(owners, kind="stable")
        first = np.flatnonzero(np.diff(owners[in_rows], prepend=-1)) + written
        yield {name: values[in_rows] for name, values in window.items()} | {"rows.bin": first}
        written += len(owners)
    yield {"starts.bin": np.empty(0), "lengths.bin": np.empty(0), "rows.bin": np.array([written])}
