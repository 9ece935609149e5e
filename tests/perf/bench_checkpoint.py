"""Checkpoints beside plain `torch.save` of the same state, and beside the disk itself, in one run.

    python tests/perf/bench_checkpoint.py [FOLDER]

blocked seconds   in which no step is made: asynchronous (the copy), synchronous (all of it), and `torch.save` with an fsync,
                  which neither hashes nor commits. The state is that of the small model with its optimizer, on one rank
bytes a second    of a whole save, beside a file of as many bytes that is written in pieces of 16 MiB and synced. All three write
                  anew, and only then is the one before gone, as it is with whoever wants to keep a checkpoint
reading           verified, read and put into model and optimizer, beside `torch.load` and the same
restart           two ranks from their start to their first step: from scratch, from the volume, from their nodes' memory,
                  and from the neighbour's where one node is new

Medians of several rounds, the best of each kind of restart. Prints a table and ends with one line: `ahead …` or `behind in …`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from deepseek_trainer.checkpoint import load, state
from deepseek_trainer.checkpoint.flight import Flight
from deepseek_trainer.checkpoint.staging import Staging
from deepseek_trainer.config import OptimizerSpec, TrainerSpec
from deepseek_trainer.distributed.world import World, join
from deepseek_trainer.model import origin
from deepseek_trainer.optim import optimizer as optimizers
from support.bench_table import Row, table, verdict
from support.restarts import Restarts
from support.saver import writer

ROUNDS, STARTS = 3, 2
PIECE = 16 * 2**20
Figures = Mapping[str, float]


def main() -> int:
    options = argparse.ArgumentParser(description="Checkpoints beside torch.save and the disk.")
    options.add_argument("folder", nargs="?", type=Path, help="on the disk to be measured; default: a temporary one")
    chosen = options.parse_args().folder
    with tempfile.TemporaryDirectory(dir=chosen) as home, join("gloo", {}) as world:
        measured = _measured(Path(home), world)
        rows = [*_rows(measured), *_restarts(Path(home))]
    print(table(rows))
    print(verdict(rows))
    return 0


def _measured(home: Path, world: World) -> Figures:
    spec = TrainerSpec.model_validate({"model": {"preset": "small"}, "training": {"steps": 1}})
    source = origin.of(spec, vocab_size=8192)
    model, writing = source.model(), writer(home / "ours", world, keep=1, model=source.identity())
    optimizer = optimizers.make(model, OptimizerSpec())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    collected = state.collect(model, optimizer)
    staging, apart = Staging(), world.apart()
    staging.copy(collected)  # its memory is made once in a run
    seconds: dict[str, list[float]] = defaultdict(list)
    for step in range(1, 2 * ROUNDS + 1, 2):
        seconds["torch.save"].append(_timed(lambda: _torch_save(home / "theirs.pt", collected)))
        seconds["Sync"].append(_timed(partial(writing.save, collected, {"step": step})))
        began = time.perf_counter()
        copied = staging.copy(collected)
        flight = Flight(step + 1, partial(replace(writing, world=apart).save, copied, {"step": step + 1}))
        seconds["Async"].append(time.perf_counter() - began)
        flight.wait()
        assert flight.error is None, flight.error
        found = load.newest_whole(home / "ours")
        assert found is not None
        size = found.manifest.bytes
        seconds["disk"].append(_timed(partial(_write, home / "plain", size)))
        seconds["read"].append(_timed(lambda: _read(home / "ours", world, model, optimizer)))
        seconds["torch.load"].append(_timed(lambda: _torch_load(home / "theirs.pt", model, optimizer)))
    print(f"the state has {size / 1e6:.0f} MB; seconds of each round: ", end="")
    print({name: [round(second, 3) for second in tries] for name, tries in seconds.items()})
    return {name: statistics.median(tries) for name, tries in seconds.items()} | {"bytes": size}


def _rows(of: Figures) -> list[Row]:
    hashed = "every byte is hashed beside its writing, what is older is deleted, and the names are synced"
    verified = "every byte is hashed before it is trusted"
    size = of["bytes"]
    return [
        Row("blocked, Async", of["Async"], of["torch.save"], "s", "lower", "torch.save"),
        Row("blocked, Sync", of["Sync"], of["torch.save"], "s", "lower", "torch.save", hashed),
        Row("blocked, Async", of["Async"], of["Sync"], "s", "lower", "our own Sync"),
        Row("a whole save", size / of["Sync"] / 1e6, size / of["disk"] / 1e6, "MB/s", "higher", "the disk", hashed),
        Row("verified and read", of["read"], of["torch.load"], "s", "lower", "torch.load", verified),
    ]


def _restarts(home: Path) -> list[Row]:
    """Two ranks from their start to their first step, from each of the places where a checkpoint can be."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        job = Restarts(home / "restarts", Path(memory))
        ways = {
            "scratch": job.from_scratch,
            "volume": job.from_volume,
            "memory": job.from_memory,
            "peer": job.from_peer,
        }
        tries = {name: [start() for _ in range(STARTS)] for name, start in ways.items()}
    print(
        "seconds to the first step: ", {name: [round(second, 2) for second in taken] for name, taken in tries.items()}
    )
    least = {name: min(taken) for name, taken in tries.items()}
    note = "all bytes of the checkpoint are hashed and read"
    return [
        Row("restart, from the volume", least["volume"], least["scratch"], "s", "lower", "from scratch", note),
        Row("restart, from memory", least["memory"], least["volume"], "s", "lower", "from the volume"),
        Row("restart, a new node", least["peer"], least["volume"], "s", "lower", "from the volume"),
    ]


def _timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _torch_save(path: Path, collected: dict[str, Any]) -> None:
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        torch.save(collected, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _write(path: Path, size: int) -> None:
    piece, new = os.urandom(PIECE), path.with_suffix(".new")
    with new.open("wb", buffering=0) as file:
        for begin in range(0, size, PIECE):
            file.write(piece[: size - begin])
        os.fsync(file.fileno())
    new.replace(path)


def _read(folder: Path, world: World, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    found = load.newest_whole(folder)
    assert found is not None
    load.read_into(state.collect(model, optimizer), found, world)


def _torch_load(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    loaded, own = torch.load(path, weights_only=True), state.collect(model, optimizer)
    model.load_state_dict(loaded["model"])
    for name, moments in own["optimizer"]["state"].items():
        for moment, tensor in moments.items():
            tensor.copy_(loaded["optimizer"]["state"][name][moment])


if __name__ == "__main__":
    sys.exit(main())
