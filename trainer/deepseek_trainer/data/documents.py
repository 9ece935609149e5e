"""The text that is trained on, document by document, from a named corpus or from files on a volume.

A `.txt` file is one document; each line of a `.jsonl` file is one. Files are read in the order of their names.
Nothing is skipped: what can't be read stops the preparation, with the file and the line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deepseek_trainer.config import DataSpec
from deepseek_trainer.data import corpora
from deepseek_trainer.errors import DataError

_SUFFIXES = (".txt", ".jsonl")


@dataclass(frozen=True)
class Documents:
    """Files of text; iterating yields their documents, again each time.

    Attributes:
        name: what the user called it: a corpus or a path.
    """

    name: str
    files: tuple[Path, ...]
    text_field: str

    def __iter__(self) -> Iterator[str]:
        for path in self.files:
            try:
                if path.suffix == ".jsonl":
                    yield from _records(path, self.text_field)
                else:
                    yield path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{path}: byte {error.start} is not UTF-8; convert the file to UTF-8") from error
            except OSError as error:
                raise DataError(f"{path}: {error.strerror}") from error

    def fingerprint(self) -> str:
        """sha256 over the names and contents of the files, and how they are read. Reads them once."""
        digest = hashlib.sha256(json.dumps([self.text_field]).encode())
        for path in self.files:
            try:
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise DataError(f"{path}: {error.strerror}") from error
            digest.update(json.dumps([path.name, content]).encode())
        return digest.hexdigest()


def find(spec: DataSpec, environ: Mapping[str, str]) -> Documents:
    """The documents that `spec.data` asks for.

    Raises:
        DataError: there are none, or they can't be had.
    """
    if spec.corpus is not None:
        return Documents(spec.corpus, (corpora.find(spec.corpus, environ),), "text")
    assert spec.path is not None  # noqa: S101  DataSpec has exactly one of the two
    return Documents(spec.path, _files(Path(spec.path)), spec.text_field)


def _files(path: Path) -> tuple[Path, ...]:
    if path.is_file():
        if path.suffix not in _SUFFIXES:
            raise DataError(f"data.path {path}: not a .txt or .jsonl file")
        return (path,)
    if not path.is_dir():
        raise DataError(f"data.path {path}: does not exist; mount the volume that has it, or correct the path")
    files = tuple(sorted(child for child in path.rglob("*") if child.suffix in _SUFFIXES and child.is_file()))
    if not files:
        raise DataError(f"data.path {path}: no .txt or .jsonl file in this folder")
    return files


def _records(path: Path, text_field: str) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: not JSON: {error.msg} at column {error.colno}") from error
            text = record.get(text_field) if isinstance(record, dict) else None
            if not isinstance(text, str):
                raise DataError(
                    f"{path}, line {number}: no text in field {text_field!r}; name the right one in data.textField"
                )
            yield text
