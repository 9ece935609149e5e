"""The token store: a corpus tokenised once, then memory-mapped by every rank.

    <folder>/
      tokens.bin       all documents, each followed by the end-of-text token; uint16, or uint32 for large vocabularies
      documents.bin    int64: where each document starts in tokens.bin, and where the last one ends
      targets.bin      uint8, only where not every token is to be predicted: 1 for those that are
      tokenizer.json   how to read them
      manifest.json    counts, unigram entropy, fingerprint, sizes and sha256 of the files above

A store appears under its name only when it is whole and on the disk: it is written beside it and renamed. Of two
that prepare the same store, one wins the rename and the other takes the winner's.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from deepseek_trainer import durable
from deepseek_trainer.data.tokenizer import end_of_text
from deepseek_trainer.errors import DataError

T = TypeVar("T")

MANIFEST = "manifest.json"
_FILES = ("tokens.bin", "documents.bin", "tokenizer.json")
_TARGETS = "targets.bin"
_ENCODE_AT_ONCE = 512


@dataclass(frozen=True)
class StoreInfo:
    """What a store's manifest says.

    Attributes:
        fingerprint: sha256 over the hashes of all files: equal where the training data is equal.
        unigram_entropy: of the token distribution, nats per token; the loss of a model that ignores context.
    """

    fingerprint: str
    tokens: int
    documents: int
    vocab_size: int
    dtype: str
    unigram_entropy: float
    files: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class TokenStore:
    """A store that is open.

    Attributes:
        tokens: uint16 or uint32, shape (info.tokens,), read-only and memory-mapped, as the others.
        documents: int64, shape (info.documents + 1,): document i is tokens[documents[i]:documents[i + 1]].
        targets: uint8, shape (info.tokens,): 1 where the token is to be predicted; None: all are.
    """

    folder: Path
    info: StoreInfo
    tokens: NDArray[Any]
    documents: NDArray[np.int64]
    targets: NDArray[np.uint8] | None


def open_store(folder: Path) -> TokenStore:
    """Maps a store that `check` has found whole."""
    info = _read_manifest(folder)
    return TokenStore(
        folder,
        info,
        tokens=np.memmap(folder / "tokens.bin", dtype=info.dtype, mode="r"),
        documents=np.memmap(folder / "documents.bin", dtype=np.int64, mode="r"),
        targets=np.memmap(folder / _TARGETS, dtype=np.uint8, mode="r") if _TARGETS in info.files else None,
    )


def check(folder: Path) -> str | None:
    """What is wrong with a store, reading all of it; None when it is whole."""
    try:
        info = _read_manifest(folder)
    except (OSError, ValueError, TypeError) as error:
        return f"its manifest can't be read: {error}"
    problems = (durable.difference(folder / name, expected) for name, expected in info.files.items())
    return next((problem for problem in problems if problem), None)


def write_store(folder: Path, documents: Iterable[str], tokenizer: Tokenizer) -> None:
    """Tokenises documents into a new store at `folder`.

    Raises:
        DataError: the documents are empty.
        OSError: the volume is full or read-only.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name[:16]}-"))
    try:
        _write_files(scratch, documents, tokenizer)
        try:
            durable.rename(scratch, folder)
        except OSError:
            if check(folder) is not None:  # not the other preparer's store: a real failure
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_files(folder: Path, documents: Iterable[str], tokenizer: Tokenizer) -> None:
    vocab_size = tokenizer.get_vocab_size(with_added_tokens=True)
    dtype = np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)
    tokenizer.save(str(folder / "tokenizer.json"))
    counts = np.zeros(vocab_size, dtype=np.int64)
    starts = [0]
    with (folder / "tokens.bin").open("wb") as file:
        for tokens in _encode(documents, tokenizer, dtype):
            file.write(tokens.tobytes())
            counts += np.bincount(tokens, minlength=vocab_size)
            starts.append(starts[-1] + len(tokens))
    np.array(starts, dtype=np.int64).tofile(folder / "documents.bin")
    if starts[-1] == len(starts) - 1:
        raise DataError("the data has no text")
    files = {name: durable.describe(folder / name) for name in _FILES}
    info = StoreInfo(
        fingerprint=hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest(),
        tokens=starts[-1],
        documents=len(starts) - 1,
        vocab_size=vocab_size,
        dtype=dtype.name,
        unigram_entropy=_entropy(counts),
        files=files,
    )
    for name in _FILES:
        durable.sync(folder / name)
    durable.write_json(folder / MANIFEST, asdict(info))
    durable.sync_folder(folder)


def _encode(documents: Iterable[str], tokenizer: Tokenizer, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    end = end_of_text(tokenizer)
    for batch in _batched(documents, _ENCODE_AT_ONCE):
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            yield np.array([*encoding.ids, end], dtype=dtype)


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _entropy(counts: NDArray[np.int64]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _read_manifest(folder: Path) -> StoreInfo:
    return StoreInfo(**json.loads((folder / MANIFEST).read_bytes()))
