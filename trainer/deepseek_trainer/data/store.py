"""The token store: a corpus tokenised once, then memory-mapped by every rank.

    <folder>/
      tokens.bin       all documents, each followed by the end-of-text token; uint16, or uint32 for large vocabularies
      documents.bin    int64: where each document starts in tokens.bin, and where the last one ends
      targets.bin      uint8, only where not every token is to be predicted: 1 for those that are
      tokenizer.json   how to read them
      quarantine.jsonl records that were left out, only where there are some: file, place, reason, count
      manifest.json    counts, unigram entropy, fingerprint, sizes and sha256 of the files above

A store appears under its name only when it is whole and on the disk: it is written elsewhere and renamed. Of two
that prepare the same store, one wins the rename and the other takes the winner's.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from deepseek_trainer import contract, durable
from deepseek_trainer.data.parts import Made
from deepseek_trainer.errors import DataError

MANIFEST = "manifest.json"
QUARANTINE = "quarantine.jsonl"
_TARGETS = "targets.bin"


@dataclass(frozen=True)
class StoreInfo:
    """What a store's manifest says.

    Attributes:
        fingerprint: sha256 over the hashes of what is trained on: equal where the training data is equal.
        vocab_size: one more than the largest token id.
        unigram_entropy: of the token distribution, nats per token; the loss of a model that ignores context.
        quarantined: records that were left out.
    """

    fingerprint: str
    tokens: int
    documents: int
    vocab_size: int
    dtype: str
    unigram_entropy: float
    files: dict[str, dict[str, Any]]
    quarantined: int = 0


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


def report(store: TokenStore) -> contract.Data:
    """What a store says of itself to those who watch the job."""
    listed = quarantined(store.folder, contract.QUARANTINED_SHOWN)
    examples = (f"{', '.join(filter(None, (bad['file'], bad['place'])))}: {bad['reason']}" for bad in listed)
    return contract.Data(
        tokens=store.info.tokens,
        documents=store.info.documents,
        quarantined=store.info.quarantined,
        examples=tuple(example[: contract.QUARANTINED_LENGTH] for example in examples),
    )


def quarantined(folder: Path, limit: int) -> list[dict[str, Any]]:
    """The first records that a store leaves out: {"file", "place", "reason", "count"}."""
    try:
        with (folder / QUARANTINE).open("rb") as file:
            return [json.loads(line) for line in itertools.islice(file, limit)]
    except FileNotFoundError:
        return []


def open_store(folder: Path) -> TokenStore:
    """Maps a store that `check` has found whole.

    Raises:
        DataError: a file has another size now. To read behind the end of a mapped file would be a signal, and no error.
    """
    info = _read_manifest(folder)
    for name, described in info.files.items():
        if (size := (folder / name).stat().st_size) != described["bytes"]:
            raise DataError(f"{folder}: {name} has {size} bytes instead of {described['bytes']}; delete the folder")
    return TokenStore(
        folder,
        info,
        tokens=mapped(folder / "tokens.bin", info.dtype),
        documents=mapped(folder / "documents.bin", "int64"),
        targets=mapped(folder / _TARGETS, "uint8") if _TARGETS in info.files else None,
    )


def mapped(path: Path, dtype: str) -> NDArray[Any]:
    """A whole file as an array, read-only and memory-mapped."""
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))  # slices of np.memmap itself cost ten times as much


def check(folder: Path) -> str | None:
    """What is wrong with a store, reading all of it; None when it is whole."""
    try:
        info = _read_manifest(folder)
    except (OSError, ValueError, TypeError) as error:
        return f"its manifest can't be read: {error}"
    problems = (durable.difference(folder / name, expected) for name, expected in info.files.items())
    return next((problem for problem in problems if problem), None)


def write_store(folder: Path, tokenizer: Path, parts: Iterable[Made], quarantine: Sequence[Mapping[str, Any]]) -> None:
    """Puts parts together, in order, as a new store at `folder`.

    It is written beside the tokenizer: what a killed process leaves of it goes with all else that it worked at.

    Args:
        tokenizer: the file of what they are encoded with, on the same volume as `folder`.
        quarantine: what was left out.

    Raises:
        DataError: there is no text in them.
        OSError: the volume is full or read-only.
    """
    scratch = Path(tempfile.mkdtemp(dir=tokenizer.parent, prefix=".store-"))
    try:
        _write_files(scratch, tokenizer.read_bytes(), parts, quarantine)
        durable.rename_once(scratch, folder, is_whole=lambda: check(folder) is None)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_files(
    folder: Path, tokenizer: bytes, parts: Iterable[Made], quarantine: Sequence[Mapping[str, Any]]
) -> None:
    with contextlib.ExitStack() as stack:
        writers: dict[str, _Writer] = {}

        def write(name: str, content: bytes | NDArray[Any]) -> None:
            if name not in writers:
                writers[name] = stack.enter_context(_Writer(folder / name))
            writers[name].write(content)

        write("tokenizer.json", tokenizer)
        counts, documents, tokens = np.zeros(0, dtype=np.int64), 0, 0
        dtype = np.dtype(np.uint16)
        for made in parts:
            starts = tokens + np.cumsum(made.lengths) - made.lengths
            starts = starts[1:] if made.part.piece.continues else starts
            write("tokens.bin", made.tokens)
            write("documents.bin", starts)
            if made.targets is not None:
                write(_TARGETS, made.targets)
            counts = made.counts + (counts if len(counts) else 0)
            documents, tokens, dtype = documents + len(starts), tokens + len(made.tokens), made.tokens.dtype
        if tokens <= documents:
            raise DataError("there is no text in it; see that the files are the right ones and have text")
        write("documents.bin", np.array([tokens], dtype=np.int64))
        files = {name: writer.finish() for name, writer in sorted(writers.items())}
        fingerprint = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
        if quarantine:  # it names places, not what is trained on
            write(QUARANTINE, "".join(json.dumps(entry, sort_keys=True) + "\n" for entry in quarantine).encode())
            files[QUARANTINE] = writers[QUARANTINE].finish()
    info = StoreInfo(
        fingerprint=fingerprint,
        tokens=tokens,
        documents=documents,
        vocab_size=len(counts),
        dtype=dtype.name,
        unigram_entropy=_entropy(counts),
        quarantined=sum(entry["count"] for entry in quarantine),
        files=files,
    )
    durable.write_json(folder / MANIFEST, asdict(info))
    durable.sync_folder(folder)


class _Writer:
    """A file that is hashed while it is written."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")
        self._digest = hashlib.sha256()
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def write(self, content: bytes | NDArray[Any]) -> None:
        view = content if isinstance(content, bytes) else content.tobytes()
        self._file.write(view)
        self._digest.update(view)
        self._bytes += len(view)

    def finish(self) -> dict[str, Any]:
        """Returns when the content is on the disk: its size and hash, as `durable.describe` has them."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return {"bytes": self._bytes, "sha256": self._digest.hexdigest()}


def _entropy(counts: NDArray[np.int64]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _read_manifest(folder: Path) -> StoreInfo:
    return StoreInfo(**json.loads((folder / MANIFEST).read_bytes()))
