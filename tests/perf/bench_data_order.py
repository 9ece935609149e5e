"""The order of the samples: how an epoch starts, how well it is mixed, and what it reads from the disk.

epoch start      to the first batch of 1,024 of 10^9 samples. Lists of that size fit into no machine that benches run
                 on: numpy's and torch's are made of 2 x 10^7 samples and multiplied by 50, which flatters them
                 (their time for each sample grows with the size, and they need 8 and 32 GB)
order a sample   over a whole epoch, the start included
mixing           400,000 samples, 16,384 of them in a window of ours, and as many in the shuffle buffer that
                 Hugging Face's streaming has; the feature differs between stretches of 64 samples (see support.shuffling)
cold epoch       256 MiB of tokens in samples of 4 KiB; after each sixteenth of the epoch the system forgets what
                 it has read of the file, as it does where data is much larger than memory
"""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from deepseek_trainer.data import readahead
from deepseek_trainer.data.cuts import Stream
from deepseek_trainer.data.ledger import Ledger
from deepseek_trainer.data.order import Order
from deepseek_trainer.data.samples import Samples
from support.bench_table import Row
from support.shuffling import quality
from support.stores import store_of

HUGE, LISTED, BATCH = 10**9, 2 * 10**7, 1024
DEFAULT = (256, 1024)
MIXED, BLOCK, WINDOW = 400_000, 64, 256
SAMPLE_TOKENS, SAMPLES, WINDOWS = 2048, 2**16, 16


def rows() -> list[Row]:
    """All comparisons; about two minutes on one core."""
    return [*_starts(), *_mixing(), *_cold()]


def _best(work: Callable[[], object], times: int = 3) -> float:
    """Seconds of the fastest try."""
    tries = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        tries.append(time.perf_counter() - begin)
    return min(tries)


def _starts() -> Iterator[Row]:
    import torch
    from torch.utils.data import DistributedSampler

    first = np.arange(BATCH)
    ours = _best(lambda: Order(HUGE, "epoch 1", *DEFAULT)[first])
    factor = HUGE / LISTED
    listed = _best(lambda: np.random.default_rng(1).permutation(LISTED), 1) * factor
    sampler: DistributedSampler[int] = DistributedSampler(range(LISTED), num_replicas=1, rank=0)  # type: ignore[arg-type]
    sampled = _best(lambda: next(iter(sampler)), 1) * factor
    name = "epoch start, 10^9 samples"
    yield Row(name, ours, listed, "s", "lower", "numpy.random.permutation (x 50)")
    yield Row(name, ours, sampled, "s", "lower", f"torch {torch.__version__.split('+')[0]} DistributedSampler (x 50)")

    order, batches = Order(HUGE, "epoch 1", *DEFAULT), [first + HUGE // 2 + i * BATCH for i in range(1000)]
    each = _best(lambda: [order[batch] for batch in batches]) / (BATCH * len(batches)) * 1e6
    walked = _best(lambda: sum(1 for _ in sampler), 1) / LISTED * 1e6
    note = (
        "it walks through a list that it has made before; a batch of 1,024 costs us less than a millisecond in a thread"
    )
    yield Row("order a sample, batches of 1,024", each, walked, "µs", "lower", "torch DistributedSampler", note)


def _mixing() -> Iterator[Row]:
    from datasets import Dataset

    ours = Order(MIXED, "epoch 1", BLOCK, WINDOW)[np.arange(MIXED)]
    streamed = Dataset.from_dict({"sample": range(MIXED)}).to_iterable_dataset(num_shards=1)
    shuffled = streamed.shuffle(seed=1, buffer_size=BLOCK * WINDOW)
    theirs = np.array([row["sample"] for row in shuffled])
    against = "datasets streaming, buffer of one window"
    short, long = (
        [quality(order, batch=64, stretch=stretch) for order in (ours, theirs)] for stretch in (BLOCK, MIXED // 20)
    )
    moved, correlated = [it.displacement for it in short], [abs(it.rank_correlation) for it in short]
    apart, near = [it.batch_excess for it in long], [it.batch_excess for it in short]
    yield Row("mixing: distance moved / full shuffle's", moved[0], moved[1], "", "higher", against)
    yield Row("mixing: |correlation| of place and position", correlated[0], correlated[1], "", "lower", against)
    yield Row("mixing: variance of batches, data in 20 parts", apart[0], apart[1], "", "lower", against)
    note = (
        "samples stay in a buffer for a random time, so about twice as many blocks are in play for the same memory; "
        "windowBlocks is what it costs here, and a buffer doesn't mix what lies further apart at all"
    )
    yield Row("mixing: variance of batches, data in blocks", near[0], near[1], "", "lower", against, note)


def _cold() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.bin"
        draw = np.random.default_rng(0)
        with path.open("wb") as file:
            for _ in range(16):
                file.write(draw.bytes(2 * SAMPLE_TOKENS * SAMPLES // 16))
            file.flush()
            os.fsync(file.fileno())
        windowed = _epoch(path, DEFAULT[0], SAMPLES // WINDOWS // DEFAULT[0])
        full = _epoch(path, SAMPLES, 1)
    against = "the same, shuffled completely"
    yield Row("cold epoch: all samples read", windowed[0], full[0], "s", "lower", against)
    yield Row("cold epoch: bytes read / bytes used", windowed[1], full[1], "", "lower", against)


def _epoch(path: Path, block: int, window: int) -> tuple[float, float]:
    """Seconds to touch all samples in their order, and how often each byte was read from the disk."""
    training, batch = SAMPLES - 2, 256
    mapped = np.memmap(path, np.uint16, mode="r")
    cut = Stream(SAMPLES * SAMPLE_TOKENS, SAMPLE_TOKENS)
    data = Samples(replace(store_of([1]), tokens=mapped), cut, SAMPLE_TOKENS, 1, None, training, 1)
    ledger = Ledger("f" * 64, training, data.layout, 0, batch, block, window)
    with path.open("rb") as file:
        descriptor = file.fileno()

        def forget(blocks: Iterable[tuple[int, int]]) -> None:
            mapped.base.madvise(mmap.MADV_DONTNEED)  # type: ignore[union-attr]  # what is mapped stays in memory
            for first, after in blocks:
                starts, ends = data.extents(np.arange(first, after))
                length = int(ends.max() - starts.min())
                os.posix_fadvise(descriptor, 2 * int(starts.min()), 2 * length, os.POSIX_FADV_DONTNEED)

        forget([(0, training)])
        begin, read = time.perf_counter(), _bytes_read()
        reader, order = readahead.of(data, ledger), ledger.order(0)
        at = 0
        for step in range(training // batch):
            here = replace(ledger, step=step)
            if reader is not None:
                reader.follow(here)
            for start, end in zip(*data.extents(here.batch().samples), strict=True):
                mapped[start:end].sum()
            if order.windows > 1 and (now := order.window(here.position)) != at:
                forget(order.blocks(at))
                at = now
            elif order.windows == 1 and step % (2 * training // WINDOWS // batch) == 0:
                forget([(0, training)])
        return time.perf_counter() - begin, (_bytes_read() - read) / path.stat().st_size


def _bytes_read() -> int:
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["read_bytes"])
