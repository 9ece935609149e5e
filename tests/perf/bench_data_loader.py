"""Loading: micro-batches a second, going on at 76 % of an epoch, what a step waits for, and padding.

All sides read the same 100,000 sequences of 256 tokens, shuffled, and give batches of 8 as int64 tensors; all have read them once before. Each is measured in turns, and the median counts.

    torchdata   StatefulDataLoader over a map-style dataset that slices the same memory map, without workers and with two
    datasets    the sequences as Parquet, streamed, with its shuffle buffer and with tensors by its own formatting

The step is that of the trainer's tiny model, once with the loader and once with torchdata's in the way that is faster.
Padding is that of documents of different lengths, against rows that are all as long as the longest.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import load_dataset
from datasets.utils.logging import disable_progress_bar
from deepseek_trainer.config import OptimizerSpec, RunConfig, TrainerSpec
from deepseek_trainer.data import samples
from deepseek_trainer.data.ledger import Ledger
from deepseek_trainer.data.loader import Loader
from deepseek_trainer.data.samples import MicroBatch, Samples
from deepseek_trainer.data.store import StoreInfo, TokenStore
from deepseek_trainer.model import origin
from deepseek_trainer.optim import optimizer as optimizers
from deepseek_trainer.optim.loss import summed_loss
from pyarrow import ListArray, parquet, table
from support.bench_table import Row, figure
from torchdata.stateful_dataloader import StatefulDataLoader  # type: ignore[import-untyped]

SEQUENCES, LENGTH, ROWS = 100_000, 256, 8
SEEK = 0.76
ROUNDS = 5
VOCABULARY = 4096
BATCHES = 600
"""Of each measurement of speed: more than a loader may make ahead."""
STEPS = 8
"""Of the tiny model, after two that don't count."""
COMPUTED = 128
"""Tokens of each row that the tiny model computes: its usual length, so that a step is as short as it gets."""

HANDED_OVER = (
    "a thread hands over what it made, for which a loader in the step's own way has no need; see the data wait"
)

Batch = tuple[torch.Tensor, torch.Tensor]
Load = Callable[[], Iterator[Any]]


class Mapped(torch.utils.data.Dataset[Batch]):
    """What torchdata's documentation would have one write over a memory map."""

    def __init__(self, tokens: Any) -> None:
        self._tokens = tokens

    def __len__(self) -> int:
        return SEQUENCES

    def __getitem__(self, index: int) -> Batch:
        row = torch.from_numpy(self._tokens[index * LENGTH : (index + 1) * LENGTH + 1].astype(np.int64))
        return row[:-1], row[1:]


def store_in(folder: Path, documents: Sequence[int]) -> TokenStore:
    """Random tokens in a memory map, cut into documents of these lengths."""
    bounds = np.concatenate([[0], np.cumsum(documents)]).astype(np.int64)
    folder.mkdir()
    np.random.default_rng(0).integers(0, VOCABULARY, bounds[-1], np.uint16).tofile(folder / "tokens.bin")
    tokens = np.memmap(folder / "tokens.bin", dtype=np.uint16, mode="r")
    info = StoreInfo("f" * 64, len(tokens), len(documents), VOCABULARY, "uint16", 1.0, {})
    return TokenStore(folder, info, tokens, bounds, None)


def cut(store: TokenStore, batching: dict[str, Any], length: int = LENGTH, batch: int = 64) -> tuple[Samples, Ledger]:
    """Our samples and the order in which they are used, all of which are of one epoch."""
    training = {"steps": 1, "globalBatchSize": batch, "microBatchSize": ROWS, "sequenceLength": length}
    config = RunConfig.model_validate(
        {
            "job": "bench",
            "trainer": {"training": training},
            "data": {"corpus": "gcide", "validationFraction": 1e-4, "batching": batching},
            "dataCache": "/nowhere",
        }
    )
    data = samples.of(config, store)
    return data, Ledger.of(config, fingerprint=store.info.fingerprint, samples=data.training, layout=data.layout)


# -- the three sides: from a state to micro-batches ------------------------------------------------------------------


def ours(data: Samples, ledger: Ledger, share: float = 0.0) -> Iterator[MicroBatch]:
    """From that share of the epoch on."""
    first = int(share * data.training) // ledger.global_batch
    steps = {"first": first, "last": first + BATCHES, "rank": 0, "world_size": 1, "device": torch.device("cpu")}
    with closing(Loader(data, lambda number, count: replace(ledger, step=number).batches(count), **steps)) as loader:  # type: ignore[arg-type]
        while True:
            step = loader.step(first)
            first += 1
            for _ in range(step.micro_steps):
                yield loader.micro_batch().micro_batch


def torchdata(store: TokenStore, workers: int) -> StatefulDataLoader[Batch]:
    generator = torch.Generator().manual_seed(0)
    return StatefulDataLoader(
        Mapped(store.tokens), batch_size=ROWS, shuffle=True, num_workers=workers, generator=generator
    )


def streaming(file: Path) -> Any:
    """Batches of 8 as tensors, with the library's default shuffle buffer."""
    stream = load_dataset("parquet", data_files=str(file), split="train", streaming=True)
    return stream.shuffle(seed=0, buffer_size=1000).with_format("torch").batch(ROWS)


# -- measurements -------------------------------------------------------------------------------------------------------


def speed(load: Load) -> float:
    """Tokens a second, start-up left out."""
    batches = load()
    next(batches)
    began = time.perf_counter()
    for _ in range(BATCHES):
        next(batches)
    return BATCHES * ROWS * LENGTH / (time.perf_counter() - began)


def first_batch_s(load: Load) -> float:
    """Seconds from nothing to the first batch."""
    began = time.perf_counter()
    batches = load()
    next(batches)
    seconds = time.perf_counter() - began
    del batches
    return seconds


def in_turns(measure: Callable[[Load], float], ways: dict[str, Load], rounds: int = ROUNDS) -> dict[str, float]:
    """The median of each way."""
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, load in ways.items():
            found[way].append(measure(load))
    medians = {way: statistics.median(values) for way, values in found.items()}
    print(
        f"  {measure.__name__:16}", "  ".join(f"{way}: {figure(value)}" for way, value in medians.items()), flush=True
    )
    return medians


def at_seek(loader: Any) -> dict[str, Any]:
    """A loader's state when that share of an epoch was taken from it."""
    batches = iter(loader)
    for _ in range(int(SEEK * SEQUENCES) // ROWS):
        next(batches)
    state: dict[str, Any] = loader.state_dict()
    return state


def resumed(loader: Any, state: dict[str, Any]) -> Iterator[Any]:
    loader.load_state_dict(state)
    return iter(loader)


def wait_share(load: Load) -> float:
    """Share of the tiny model's training steps in which its data is waited for."""
    batches = load()
    spec = TrainerSpec.model_validate({"training": {"steps": 1, "sequenceLength": LENGTH}})
    model = origin.of(spec, vocab_size=VOCABULARY).model()
    optimizer = optimizers.make(model, OptimizerSpec())
    waited_s = began = 0.0
    for number in range(STEPS + 2):
        if number == 2:
            waited_s, began = 0.0, time.perf_counter()
        asked = time.perf_counter()
        batch = next(batches)
        waited_s += time.perf_counter() - asked
        inputs, labels = (batch.inputs, batch.labels) if isinstance(batch, MicroBatch) else batch
        micro_batch = MicroBatch(inputs[:, :COMPUTED], labels[:, :COMPUTED], None)
        torch.autograd.backward(summed_loss(model, micro_batch) / (ROWS * COMPUTED))
        optimizer.step()
        optimizer.zero_grad()
    return waited_s / (time.perf_counter() - began)


def padding(store: TokenStore, batching: dict[str, Any], length: int) -> float:
    """Share of the computed tokens of twenty steps that is padding."""
    data, ledger = cut(store, batching, length, batch=256)
    tokens = computed = 0
    for number in range(20):
        batch = replace(ledger, step=number).batch()
        tokens += int(data.lengths(batch.samples).sum())
        for places in data.micro_batches(batch.samples, rank=0, world_size=1):
            computed += data.collate(batch.samples[places]).inputs.numel()
    return 1 - tokens / computed


def rows() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        return [*_loading(Path(folder)), *_padding(Path(folder))]


def _loading(folder: Path) -> Iterator[Row]:
    disable_progress_bar()
    warnings.filterwarnings("ignore", message="'set_vital' is deprecated")  # torchdata's own
    store = store_in(folder / "store", [*[2 * LENGTH] * (SEQUENCES // 2), 1])
    _as_parquet(store, folder / "sequences.parquet")
    data, ledger = cut(store, {})
    libraries: dict[str, Callable[[], Any]] = {
        "torchdata": lambda: torchdata(store, 0),
        "torchdata, 2 workers": lambda: torchdata(store, 2),
        "datasets": lambda: streaming(folder / "sequences.parquet"),
    }
    ways: dict[str, Load] = {"ours": lambda: ours(data, ledger)}
    ways |= {name: lambda make=make: iter(make()) for name, make in libraries.items()}  # type: ignore[misc]
    speeds = in_turns(speed, ways)
    for name in libraries:
        yield Row("loader", speeds["ours"], speeds[name], "tokens/s", "higher", name, HANDED_OVER)

    states = {name: at_seek(make()) for name, make in libraries.items()}
    seeks: dict[str, Load] = {"ours": lambda: ours(data, ledger, SEEK)}
    seeks |= {
        name: lambda make=make, state=states[name]: resumed(make(), state)  # type: ignore[misc]
        for name, make in libraries.items()
    }
    found = in_turns(first_batch_s, seeks)
    for name in libraries:
        yield Row(f"first batch at {SEEK:.0%} of an epoch", found["ours"], found[name], "s", "lower", name)

    best = max(("torchdata", "torchdata, 2 workers"), key=lambda name: speeds[name])
    waits = in_turns(wait_share, {name: ways[name] for name in ("ours", best)}, rounds=3)
    yield Row("data wait, tiny model", waits["ours"], waits[best], "of a step", "lower", best)
    yield Row("data wait, tiny model", waits["ours"], 0.01, "of a step", "lower")


def _padding(folder: Path) -> Iterator[Row]:
    """Documents of 20 to 2,048 tokens, a few hundred most of them."""
    lengths = np.random.default_rng(1).lognormal(5.5, 1.0, 20_000).astype(np.int64).clip(20, 2048).tolist()
    store = store_in(folder / "documents", lengths)
    fixed = 1 - (statistics.fmean(lengths) - 1) / 2048
    for batching in ({"mode": "Packed"}, {"mode": "Bucketed", "tokensPerMicroBatch": 8192}):
        found = padding(store, batching, 2048)
        yield Row(f"padding, {batching['mode']}", found, fixed, "of tokens", "lower", "a document a row")


def _as_parquet(store: TokenStore, file: Path) -> None:
    places = np.arange(SEQUENCES)[:, None] * LENGTH + np.arange(LENGTH + 1)
    values = store.tokens[places].reshape(-1)
    offsets = np.arange(SEQUENCES + 1, dtype=np.int32) * (LENGTH + 1)
    parquet.write_table(table({"tokens": ListArray.from_arrays(offsets, values)}), file, row_group_size=1000)
