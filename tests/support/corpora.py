"""Small corpora in any format, and the run config that prepares them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lmdb
import pyarrow as pa
from deepseek_trainer.config import RunConfig
from deepseek_trainer.data.store import TokenStore
from pyarrow import parquet
from tokenizers import Tokenizer

TEXTS = (
    "Data is read once.",
    "Ein Text mit Umlauten: äöü.",
    "深度学习 needs text.",
    "",
    "A line\nand another.",
    "The last one, with a 🐳.",
)

_SCHEMA = pa.schema({"id": pa.int64(), "text": pa.string()})


def config(path: Path | None, cache: Path, **data: Any) -> RunConfig:
    """Prepares what lies at `path`, or what `data` names, with a vocabulary of 512."""
    return RunConfig.model_validate(
        {
            "job": "test",
            "trainer": {"training": {"steps": 1}, "tokenizer": {"vocabSize": 512}},
            "data": ({"path": str(path)} if path else {}) | data,
            "dataCache": str(cache),
        }
    )


def write(path: Path, texts: Sequence[str] = TEXTS, *, rows_per_group: int = 2) -> Path:
    """A file of the format that its name says, with a record a text and a column that nobody needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"id": number, "text": text} for number, text in enumerate(texts)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if path.name.endswith(".parquet"):
        parquet.write_table(
            pa.Table.from_pylist(rows, _SCHEMA),
            path,
            row_group_size=rows_per_group,
            write_page_checksum=True,
            compression="none",
        )
    elif path.name.endswith(".lmdb"):
        with lmdb.open(str(path)) as opened, opened.begin(write=True) as transaction:
            for row in rows:
                transaction.put(f"{row['id']:08}".encode(), json.dumps(row).encode())
    elif path.name.endswith(".array.json"):
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    else:
        path.write_bytes(gzip.compress(lines) if path.name.endswith(".gz") else lines)
    return path


def texts_of(store: TokenStore) -> list[str]:
    """The documents of a store, read back."""
    reader = Tokenizer.from_file(str(store.folder / "tokenizer.json"))
    ranges = zip(store.documents[:-1], store.documents[1:], strict=True)
    return [reader.decode(store.tokens[begin : end - 1].tolist()) for begin, end in ranges]
