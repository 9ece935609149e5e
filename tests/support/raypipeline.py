"""A corpus tokenised, filtered, packed and shuffled by Ray Data, as its users write it: what `bench-data` compares with.

Packing is the trainer's own, so that rows are as full. Each row has the numbers of its documents, to be counted by.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pyarrow as pa
from deepseek_trainer.data import packing
from numpy.typing import NDArray
from tokenizers import Tokenizer

ENCODE_ROWS, PACK_ROWS = 512, 8192


def of(corpus: str, vocabulary: str, length: int) -> Any:
    """A lazy Dataset of packed rows; this process is a driver of a Ray cluster."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    read = ray.data.read_json(corpus, lines=True)
    encoded = read.map_batches(
        encode, fn_kwargs={"vocabulary": vocabulary}, batch_size=ENCODE_ROWS, batch_format="pyarrow"
    )
    return encoded.map_batches(pack, fn_kwargs={"length": length}, batch_size=PACK_ROWS, batch_format="pyarrow")


def encode(batch: pa.Table, vocabulary: str) -> pa.Table:
    """Documents as token ids; those that have nothing to be predicted are left out."""
    encodings = _tokenizer(vocabulary).encode_batch_fast(batch["text"].to_pylist(), add_special_tokens=False)
    ids = [encoding.ids for encoding in encodings]
    kept = [place for place, each in enumerate(ids) if len(each) > 1]
    return pa.table(
        {"document": batch["id"].take(pa.array(kept, pa.int64())), "tokens": pa.array([ids[k] for k in kept], TOKENS)}
    )


def pack(batch: pa.Table, length: int) -> pa.Table:
    """Documents, cut into pieces of a row's length at most, as full rows; what is left of a row is 0."""
    pieces: list[NDArray[np.int32]] = []
    documents: list[int] = []
    for document, tokens in zip(batch["document"].to_pylist(), batch["tokens"], strict=True):
        values = tokens.values.to_numpy(zero_copy_only=False)
        for begin in range(0, len(values), length):
            pieces.append(values[begin : begin + length])
            documents.append(document)
    owners = packing.rows(np.array([len(piece) for piece in pieces], np.int64), length)
    count = int(owners.max(initial=-1)) + 1
    filled = np.zeros((count, length), np.int32)
    ends = np.zeros(count, np.int64)
    inside: list[list[int]] = [[] for _ in range(count)]
    for piece, document, row in zip(pieces, documents, owners.tolist(), strict=True):
        filled[row, ends[row] : ends[row] + len(piece)] = piece
        ends[row] += len(piece)
        inside[row].append(document)
    tokens = pa.FixedSizeListArray.from_arrays(pa.array(filled.reshape(-1)), length)
    return pa.table({"tokens": tokens, "used": ends, "documents": pa.array(inside, pa.list_(pa.int64()))})


TOKENS = pa.list_(pa.int32())


@functools.cache
def _tokenizer(path: str) -> Tokenizer:
    return Tokenizer.from_file(path)
