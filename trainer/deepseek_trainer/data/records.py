"""A piece of a file read into records: what JSON, Parquet or a text file has, before anything is made of it.

A record that can't be read is yielded as `Bad`, with the place and the reason, and reading goes on behind it: what
becomes of it is for the caller to decide. A file that can't be read at all raises.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from deepseek_trainer.data import lmdbfile, parquet
from deepseek_trainer.data.sources import Piece, unreadable
from deepseek_trainer.errors import DataError

RECORD_MAX_BYTES = 2**30
_BLOCK = 2**20
_CALLED = {"parquet": "row", "lmdb": "entry", "array": "record"}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it was read.

    Attributes:
        place: counted within its piece or file; `where` says it as people do.
        value: a text, or what JSON and Parquet have.
    """

    place: int
    value: Any


@dataclass(frozen=True, slots=True)
class Bad:
    """A record that can't be used, or `count` of them in a row."""

    place: int
    reason: str
    count: int = 1


def read(piece: Piece, columns: Sequence[str]) -> tuple[str, Iterator[Record | Bad]]:
    """The sha256 of what is stored there, and the records, which are read on demand.

    Args:
        columns: of Parquet, those that are needed.

    Raises:
        DataError, UnavailableError: the file can't be read; from the iterator as well.
    """
    try:
        if piece.kind == "parquet":
            digest = parquet.digest(piece.path, piece.start, piece.end, columns)
            return digest, _guarded(piece, _rows(piece, columns))
        if piece.kind == "lmdb":
            digest = lmdbfile.digest(piece.path, piece.start, piece.end)
            return digest, _guarded(piece, _entries(piece))
        content = _content(piece)
        return hashlib.sha256(content).hexdigest(), _guarded(piece, _records(piece, content))
    except OSError as error:
        raise unreadable(piece.path, error) from error


def where(piece: Piece, place: int) -> str:
    """A place as people say it; empty for a file that is one record."""
    if piece.kind == "text":
        return ""
    if piece.kind == "lines":
        return f"line {_newlines_before(piece) + place}"
    return f"{_CALLED[piece.kind]} {place}"


def _guarded(piece: Piece, records: Iterator[Record | Bad]) -> Iterator[Record | Bad]:
    try:
        yield from records
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{piece.path}: not a whole gzip file: {error}; copy it to the volume again") from error
    except OSError as error:
        raise unreadable(piece.path, error) from error


def _content(piece: Piece) -> bytes:
    with open(piece.path, "rb") as file:
        file.seek(piece.start)
        content = file.read(piece.end - piece.start)
    if len(content) != piece.end - piece.start:
        raise DataError(f"{piece.path}: became shorter while it was read; start the job when its data is complete")
    return content


def _records(piece: Piece, content: bytes) -> Iterator[Record | Bad]:
    if piece.path.endswith(".gz"):
        content = gzip.decompress(content)
    elif piece.kind != "array":
        content = _whole_lines(piece, content)
    if piece.start == 0:
        content = content.removeprefix(_BYTE_ORDER_MARK)
    if piece.kind == "array":
        yield from _elements(content)
    elif piece.kind == "text":
        yield _text(piece, content)
    else:
        yield from _lines(content)


def _whole_lines(piece: Piece, content: bytes) -> bytes:
    """The piece without the rest of a line that began before it (an empty line is left), and its last line whole."""
    ended = piece.last or content.endswith(b"\n")
    with open(piece.path, "rb") as file:
        if piece.start:
            file.seek(piece.start - 1)
            if file.read(1) != b"\n":
                newline = content.find(b"\n")
                if newline < 0:
                    return b""
                content = content[newline:] if piece.kind == "lines" else content[newline + 1 :]
        if not ended:
            file.seek(piece.end)
            content += _to_newline(piece, file)
    return content


def _to_newline(piece: Piece, file: Any) -> bytes:
    found = bytearray()
    while block := file.read(_BLOCK):
        if (end := block.find(b"\n")) >= 0:
            return bytes(found + block[: end + 1])
        found += block
        if len(found) > RECORD_MAX_BYTES:
            raise DataError(f"{piece.path}: a line near byte {piece.end} is longer than 1 GiB; cut it into records")
    return bytes(found)


def _text(piece: Piece, content: bytes) -> Record | Bad:
    try:
        return Record(1, content.decode())
    except UnicodeDecodeError as error:
        place = f"byte {error.start}" if piece.start == 0 else f"a byte after byte {piece.start}"
        return Bad(1, f"{place} is not UTF-8; convert the file to UTF-8")


def _lines(content: bytes) -> Iterator[Record | Bad]:
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line or line.isspace():
            continue
        try:
            yield Record(number, json.loads(line.decode()))
        except UnicodeDecodeError as error:
            yield Bad(number, f"byte {error.start} of the line is not UTF-8; convert the file to UTF-8")
        except json.JSONDecodeError as error:
            yield Bad(number, f"not JSON: {error.msg} at column {error.colno}")
        except (RecursionError, ValueError) as error:  # nested without end, or an integer of thousands of digits
            yield Bad(number, f"JSON that can't be read: {error}")


def _elements(content: bytes) -> Iterator[Record | Bad]:
    """The records of one array. Behind JSON that is broken nothing can be told apart: that is the last one."""
    decoder = json.JSONDecoder()
    number, position = 1, 0
    try:
        text = content.decode()
        position = text.index("[") + 1
        while True:
            while position < len(text) and text[position] in " \t\r\n,":
                position += 1
            if text[position : position + 1] == "]":
                return
            value, position = decoder.raw_decode(text, position)
            yield Record(number, value)
            number += 1
    except UnicodeDecodeError as error:
        yield Bad(number, f"byte {error.start} of the file is not UTF-8; convert the file to UTF-8")
    except json.JSONDecodeError as error:
        yield Bad(number, f"not JSON: {error.msg} at line {error.lineno} column {error.colno}")
    except (RecursionError, ValueError) as error:
        yield Bad(number, f"JSON that can't be read: {error}")


def _rows(piece: Piece, columns: Sequence[str]) -> Iterator[Record | Bad]:
    for first, count, rows in parquet.rows(piece.path, piece.start, piece.end, columns):
        if isinstance(rows, str):
            yield Bad(first + 1, f"{rows}; {count} rows are lost with it", count)
        else:
            yield from (Record(first + number, row) for number, row in enumerate(rows, start=1))


def _entries(piece: Piece) -> Iterator[Record | Bad]:
    for number, value, problem in lmdbfile.values(piece.path, piece.start, piece.end):
        yield Bad(number, problem) if problem else Record(number, value)


def _newlines_before(piece: Piece) -> int:
    found = 0
    with open(piece.path, "rb") as file:
        for begin in range(0, piece.start, _BLOCK):
            found += file.read(min(_BLOCK, piece.start - begin)).count(b"\n")
    return found
