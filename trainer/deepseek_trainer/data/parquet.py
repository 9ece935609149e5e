"""Parquet as it is on the volume: row groups, and of those only the columns that are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from deepseek_trainer.errors import DataError, first_line

_REASON_MAX = 300


def cut(path: str, size: int) -> list[tuple[int, int, int]]:
    """Ranges of row groups of about `size` compressed bytes each, and what each has.

    Raises:
        DataError: it is no Parquet file, or not a whole one.
    """
    metadata = _open(path).metadata
    ranges, start, so_far = [], 0, 0
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        bytes_ = sum(row_group.column(i).total_compressed_size for i in range(row_group.num_columns))
        if so_far and so_far + bytes_ > size:
            ranges.append((start, group, so_far))
            start, so_far = group, 0
        so_far += bytes_
    return [*ranges, (start, metadata.num_row_groups, so_far)] if metadata.num_row_groups else []


def digest(path: str, start: int, end: int, columns: Sequence[str]) -> str:
    """sha256 over the stored bytes of these columns in row groups [start, end).

    Raises:
        DataError: a column is missing.
        OSError: the file can't be read.
    """
    metadata = _with_columns(path, columns).metadata
    found = hashlib.sha256()
    with open(path, "rb") as file:
        for group in range(start, end):
            row_group = metadata.row_group(group)
            for chunk in (row_group.column(i) for i in range(row_group.num_columns)):
                if chunk.path_in_schema.split(".")[0] not in columns:
                    continue
                offset = min(filter(None, (chunk.dictionary_page_offset, chunk.data_page_offset)))
                file.seek(offset)
                found.update(file.read(chunk.total_compressed_size))
    return found.hexdigest()


def rows(
    path: str, start: int, end: int, columns: Sequence[str]
) -> Iterator[tuple[int, int, list[dict[str, Any]] | str]]:
    """The rows of row groups [start, end), by group: first row (from 0), number of rows, and the rows or why they can't be read."""
    import pyarrow as pa

    opened = _with_columns(path, columns)
    first = sum(opened.metadata.row_group(group).num_rows for group in range(start))
    for group in range(start, end):
        count = opened.metadata.row_group(group).num_rows
        try:
            yield first, count, opened.read_row_group(group, columns=list(columns)).to_pylist()
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            yield first, count, f"row group {group} can't be read: {first_line(error)[:_REASON_MAX]}"
        first += count


def _with_columns(path: str, columns: Sequence[str]) -> Any:
    opened = _open(path)
    there = opened.schema_arrow.names
    if missing := [column for column in columns if column not in there]:
        raise DataError(
            f"{path}: no column {missing[0]!r}; it has {', '.join(map(repr, there[:20]))}; name the right one in "
            "data.textField, data.textFields or data.chat.messagesField"
        )
    return opened


def _open(path: str) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path, memory_map=True, page_checksum_verification=True)
    except pa.ArrowException as error:
        raise DataError(
            f"{path}: not a whole Parquet file: {first_line(error)[:_REASON_MAX]}; copy it to the volume again"
        ) from error
