"""Preparation in parts: one piece of the source tokenised into one file, by whoever gets to it first.

`make` may run any number of times, in any process, on any machine that sees the files and the work folder, also for
the same part at once: a part's file appears whole or not at all, and is the same whoever made it. So a process
pool, a second preparer and a Ray task need no word between them.

    <work folder>/
      tokenizer.json   what the parts are encoded with; there before any of them
      000012.npz       tokens, lengths of documents, targets, counts of tokens, and what was bad
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import struct
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from deepseek_trainer.data import records
from deepseek_trainer.data.documents import BadRecord, Document, Reading
from deepseek_trainer.data.records import Bad
from deepseek_trainer.data.sources import Piece
from deepseek_trainer.data.tokenizer import FILE, end_of_text, size_of, token_type
from deepseek_trainer.errors import DataError

_ENCODE_AT_ONCE = 512
_ENCODE_CHARACTERS = 2**22
_REASON_MAX = 300
_SAID = "said"
_PARSING = threading.Lock()
"""Python 3.11 fails now and then when two threads parse literals at once (gh-106905), as numpy does for each array."""


@dataclass(frozen=True)
class Part:
    """One piece of work.

    Attributes:
        folder: the work folder, which has the tokenizer.
        may_skip: how many bad records may be left out; None: not one.
    """

    number: int
    piece: Piece
    reading: Reading
    folder: str
    may_skip: int | None = None

    @property
    def path(self) -> Path:
        return Path(self.folder) / f"{self.number:06}.npz"


@dataclass(frozen=True)
class Said:
    """What a part's file says of its piece.

    Attributes:
        digest: sha256 of what the piece stores.
        bad: what was left out: {"file", "place", "reason", "count"}.
    """

    digest: str
    bad: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Made:
    """What a part became.

    Attributes:
        lengths: int64, tokens of each document, the end-of-text token with it.
        counts: int64, how often each token id occurs.
    """

    part: Part
    tokens: NDArray[Any]
    lengths: NDArray[np.int64]
    targets: NDArray[np.uint8] | None
    counts: NDArray[np.int64]


def make(part: Part) -> None:
    """Makes a part's file, if it isn't there.

    Raises:
        DataError, UnavailableError: the piece can't be read, or has more bad records than may be left out.
        OSError: the work folder can't be written, or is gone.
    """
    if part.path.exists():
        return
    digest, arrays, bad = _encode(part)
    said = json.dumps({"digest": digest, "bad": bad}).encode()
    descriptor, scratch = tempfile.mkstemp(dir=part.folder, prefix=f".{part.number:06}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, **{_SAID: np.frombuffer(said, dtype=np.uint8)}, **arrays)  # type: ignore[arg-type]
        os.replace(scratch, part.path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def look(part: Part) -> Said | None:
    """What a part's file says; None where there is no whole one, and it is then gone."""
    arrays = _arrays(part, lambda name: name == _SAID)
    if arrays is None:
        return None
    said = json.loads(arrays[_SAID].tobytes())
    return Said(said["digest"], tuple(said["bad"]))


def load(part: Part) -> Made | None:
    """What was made of a part; None where there is no whole file, and it is then gone."""
    arrays = _arrays(part, lambda name: name != _SAID)
    return None if arrays is None else Made(part, targets=arrays.pop("targets", None), **arrays)


def _arrays(part: Part, wanted: Callable[[str], bool]) -> dict[str, NDArray[Any]] | None:
    try:
        with _PARSING, part.path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:  # arrays have checksums
            return {name: file[name] for name in file.files if wanted(name)}
    except FileNotFoundError:
        return None
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError, struct.error):
        part.path.unlink(missing_ok=True)
        return None


def texts(part: Part) -> Iterator[str]:
    """The texts of a part, without what is bad in it."""
    yield from (document.text for document in _documents(part, []))


def refusal(bad: list[dict[str, Any]], may_skip: int) -> DataError:
    """The error of too many bad records."""
    first = bad[0]
    return DataError(
        f"{sum(entry['count'] for entry in bad)} bad records and more, of which data.maxBadRecords allows {may_skip}; "
        f"the first: {', '.join(filter(None, (first['file'], first['place'])))}: {first['reason']}"
    )


def _documents(part: Part, bad: list[dict[str, Any]]) -> Iterator[Document]:
    for record in records.read(part.piece, part.reading.columns)[1]:
        yield from _document(part, record, bad)


def _document(part: Part, record: records.Record | Bad, bad: list[dict[str, Any]]) -> Iterator[Document]:
    """The document of a record; of a bad one nothing but an entry in `bad`."""
    try:
        if isinstance(record, Bad):
            raise BadRecord(record.reason)
        yield part.reading.document(record.value)
    except BadRecord as error:
        place = records.where(part.piece, record.place)
        if part.may_skip is None:
            raise DataError(f"{', '.join(filter(None, (part.piece.path, place)))}: {error}") from error
        count = record.count if isinstance(record, Bad) else 1
        bad.append({"file": part.piece.name, "place": place, "reason": str(error)[:_REASON_MAX], "count": count})
        if sum(entry["count"] for entry in bad) > part.may_skip:
            raise refusal(bad, part.may_skip) from error


def _encode(part: Part) -> tuple[str, dict[str, NDArray[Any]], list[dict[str, Any]]]:
    tokenizer, size = _tokenizer(str(Path(part.folder) / FILE))
    end = end_of_text(tokenizer)
    dtype = token_type(size)
    bad: list[dict[str, Any]] = []
    digest, found = records.read(part.piece, part.reading.columns)
    tokens, targets, lengths = [np.zeros(0, dtype)], [np.zeros(0, np.uint8)], [np.zeros(0, np.int64)]
    for batch in _batched(document for record in found for document in _document(part, record, bad)):
        if part.reading.has_targets:
            ids, wanted = _with_targets(tokenizer, batch, end)
            targets.append(np.fromiter(itertools.chain.from_iterable(wanted), np.uint8))
        else:
            encodings = tokenizer.encode_batch_fast([document.text for document in batch], add_special_tokens=False)
            ids = [encoding.ids for encoding in encodings]
            if part.piece.kind != "text" or part.piece.last:
                for document_ids in ids:
                    if document_ids[-1:] != [end]:
                        document_ids.append(end)
        lengths.append(np.fromiter(map(len, ids), np.int64))
        tokens.append(np.fromiter(itertools.chain.from_iterable(ids), dtype, count=int(lengths[-1].sum())))
    whole = np.concatenate(tokens)
    counts = np.bincount(whole, minlength=size)
    arrays: dict[str, NDArray[Any]] = {"tokens": whole, "lengths": np.concatenate(lengths), "counts": counts}
    if part.reading.has_targets:
        arrays["targets"] = np.concatenate(targets)
    return digest, arrays, bad


def _with_targets(tokenizer: Tokenizer, batch: list[Document], end: int) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids, and 1 for each token that lies in a range to be predicted as a whole.

    The end-of-text token is added where the text has none of its own, and predicted if what is before it is.
    """
    ids, wanted = [], []
    encodings = tokenizer.encode_batch([document.text for document in batch], add_special_tokens=False)
    for document, encoding in zip(batch, encodings, strict=True):
        document_ids, offsets = encoding.ids, encoding.offsets
        in_target = bytearray(len(document.text) + 1)
        for begin, stop in document.targets or ():
            in_target[begin:stop] = b"\1" * (stop - begin)
        marks = [int(stop > begin and all(in_target[begin:stop])) for begin, stop in offsets]
        if document_ids[-1:] != [end]:
            document_ids.append(end)
            marks.append(marks[-1] if marks else 0)
        ids.append(document_ids)
        wanted.append(marks)
    return ids, wanted


def _batched(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if len(batch) == _ENCODE_AT_ONCE or characters > _ENCODE_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


@functools.lru_cache(maxsize=1)
def _tokenizer(path: str) -> tuple[Tokenizer, int]:
    """The work folder's tokenizer, and the size of its vocabulary."""
    made = Tokenizer.from_str(Path(path).read_text(encoding="utf-8"))
    return made, size_of(made)
