"""Preparation beside `datasets.map`, and the store's format beside those that it could have been.

tokens per second    the same JSON lines, tokenizer and processors: text on the disk to tokens on the disk
reads per second     random samples of 2,048 tokens from a flat file, Arrow and LMDB, all memory-mapped
open, size           until the first sample is read, in a process that has the library imported; bytes on the disk
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from deepseek_trainer.config import RunConfig
from deepseek_trainer.data import corpora, processes
from deepseek_trainer.data.prepare import prepare
from deepseek_trainer.data.store import TokenStore, open_store
from numpy.typing import NDArray
from support.bench_table import Row

CORPUS_BYTES = 16 * 2**20
ROUNDS = 3
SAMPLE_TOKENS = 2048
READS = 20_000
OPENS = 30

Read = Callable[[int], NDArray[Any]]


def rows() -> list[Row]:
    """Ours and theirs, in turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = folder / "corpus.jsonl"
        with corpora.find("gcide", os.environ).open("rb") as whole:
            corpus.write_bytes(b"".join(whole.readlines(CORPUS_BYTES)))
        ours, theirs = [], []
        for number in range(ROUNDS):
            # `datasets` switches the tokenizers' threads off for its processes, and leaves it so for this one.
            os.environ["TOKENIZERS_PARALLELISM"] = "true"
            began = time.perf_counter()
            made = open_store(prepare(_config(corpus, folder / f"ours-{number}"), {}))
            ours.append(made.info.tokens / (time.perf_counter() - began))
            began = time.perf_counter()
            tokens = _map(corpus, made.folder / "tokenizer.json", folder / f"theirs-{number}")
            theirs.append(tokens / (time.perf_counter() - began))
            if tokens != made.info.tokens - made.info.documents:
                raise AssertionError(f"{tokens} tokens by datasets.map, {made.info.tokens} with an end each by us")
        return [
            Row(
                f"preparation, {processes.processors()} processors",
                statistics.median(ours),
                statistics.median(theirs),
                "tokens/s",
                against="datasets.map",
            ),
            *_formats(made, folder),
        ]


def _config(corpus: Path, cache: Path) -> RunConfig:
    return RunConfig.model_validate(
        {
            "job": "bench",
            "trainer": {"training": {"steps": 1}, "tokenizer": {"kind": "deepseek"}},
            "data": {"path": str(corpus)},
            "dataCache": str(cache),
        }
    )


def _map(corpus: Path, vocabulary: Path, cache: Path) -> int:
    """The tokens of the corpus, tokenised and written by the datasets library."""
    import datasets
    from tokenizers import Tokenizer

    datasets.disable_progress_bars()
    tokenizer = Tokenizer.from_file(str(vocabulary))

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        encodings = tokenizer.encode_batch_fast(batch["text"], add_special_tokens=False)
        return {"ids": [encoding.ids for encoding in encodings]}

    read = datasets.load_dataset("json", data_files=str(corpus), split="train", cache_dir=str(cache))
    features = datasets.Features({"ids": datasets.List(datasets.Value("uint32"))})
    written = read.map(
        encode, batched=True, num_proc=processes.processors(), remove_columns=["text"], features=features
    )
    return sum(len(chunk.flatten()) for chunk in written.data.column("ids").chunks)


def _formats(store: TokenStore, folder: Path) -> list[Row]:
    samples = store.info.tokens // SAMPLE_TOKENS
    chosen = np.random.default_rng(0).integers(0, samples, READS).tolist()
    sizes = {
        "Arrow": _write_arrow(store, samples, folder / "samples.arrow"),
        "LMDB": _write_lmdb(store, samples, folder / "samples.lmdb"),
    }
    opened: dict[str, Callable[[], Read]] = {
        "flat": lambda: _flat(store),
        "Arrow": lambda: _arrow(folder / "samples.arrow"),
        "LMDB": lambda: _lmdb(folder / "samples.lmdb"),
    }
    speeds: dict[str, list[float]] = {name: [] for name in opened}
    opens: dict[str, list[float]] = {name: [] for name in opened}
    for _ in range(ROUNDS):
        for name, open_ in opened.items():
            opens[name] += [_first_sample_s(open_) for _ in range(OPENS)]
            read = open_()
            began = time.perf_counter()
            for place in chosen:
                read(place)
            speeds[name].append(READS / (time.perf_counter() - began))
            del read  # LMDB is open once in a process
    size = samples * SAMPLE_TOKENS * store.tokens.itemsize  # of the same samples, without the rest behind them
    found = []
    for name in ("Arrow", "LMDB"):
        ours, theirs = statistics.median(speeds["flat"]), statistics.median(speeds[name])
        found.append(Row(f"random samples, flat file or {name}", ours, theirs, "samples/s", against=name))
        ours, theirs = 1e3 * statistics.median(opens["flat"]), 1e3 * statistics.median(opens[name])
        found.append(Row(f"open and first sample, flat file or {name}", ours, theirs, "ms", "lower", name))
        found.append(Row(f"size, flat file or {name}", size / 2**20, sizes[name] / 2**20, "MiB", "lower", name))
    return found


def _first_sample_s(open_: Callable[[], Read]) -> float:
    began = time.perf_counter()
    open_()(0)
    return time.perf_counter() - began


def _flat(store: TokenStore) -> Read:
    tokens = np.asarray(np.memmap(store.folder / "tokens.bin", dtype=store.info.dtype, mode="r"))
    return lambda place: np.array(tokens[place * SAMPLE_TOKENS : (place + 1) * SAMPLE_TOKENS])


def _write_arrow(store: TokenStore, samples: int, path: Path) -> int:
    import pyarrow as pa

    tokens = pa.array(np.array(store.tokens[: samples * SAMPLE_TOKENS]))
    offsets = pa.array(np.arange(0, samples + 1, dtype=np.int32) * SAMPLE_TOKENS)
    table = pa.table({"ids": pa.ListArray.from_arrays(offsets, tokens)})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)  # as the datasets library writes
    return path.stat().st_size


def _arrow(path: Path) -> Read:
    import pyarrow as pa

    column = pa.ipc.open_file(pa.memory_map(str(path))).read_all().column("ids")
    return lambda place: np.array(column[place].values.to_numpy(zero_copy_only=True))


def _write_lmdb(store: TokenStore, samples: int, path: Path) -> int:
    import lmdb

    with lmdb.open(str(path), map_size=2**33) as opened, opened.begin(write=True) as transaction:
        for place in range(samples):
            ids = store.tokens[place * SAMPLE_TOKENS : (place + 1) * SAMPLE_TOKENS]
            transaction.put(place.to_bytes(8), ids.tobytes(), append=True)
    return sum(file.stat().st_blocks * 512 for file in path.iterdir())


def _lmdb(path: Path) -> Read:
    import lmdb

    transaction = lmdb.open(str(path), readonly=True, lock=False).begin(buffers=True)
    return lambda place: np.array(np.frombuffer(transaction.get(place.to_bytes(8)) or b"", dtype=np.uint32))
