"""A job's training without a model: everything of the product that accounts for data, and weights that remember.

The weights are the list of the samples that they were trained on. They are saved and loaded by the product's own writer,
loader and retention, dealt to the ranks by its own deal, ordered by its own ledger. Only collectives and tensors are
missing: one process plays all ranks of a world, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from deepseek_trainer import durable
from deepseek_trainer.checkpoint import layout, load, retention
from deepseek_trainer.checkpoint.save import Writer
from deepseek_trainer.data.deal import micro_batches
from deepseek_trainer.data.ledger import Ledger
from deepseek_trainer.distributed.world import World
from numpy.typing import NDArray

T = TypeVar("T")

CONFIG, SEGMENT, STEP, EPOCH, SAMPLE = range(5)
"""Columns of the weights."""
Weights = NDArray[np.int64]


class BrokenError(AssertionError):
    """An invariant doesn't hold; the message names it."""


class Killed(BaseException):
    """The process is gone: nothing that catches errors may notice."""


class PlayedWorld(World):
    """Ranks that are played by one process."""

    def gather(self, value: T) -> list[T]:
        return [value]


class ListWriter(Writer):
    """Saves weights that are a list, a part of it by each rank."""

    def _write(self, temporary: Path, state: dict[str, Any]) -> dict[str, dict[str, Any]]:
        def write() -> dict[str, dict[str, Any]]:
            paths = [temporary / f"__{rank}_0.distcp" for rank in range(self.world.size)]
            for path, part in zip(paths, np.array_split(state["weights"], len(paths)), strict=True):
                durable.write_bytes(path, part.tobytes())
            return {path.name: durable.describe(path) for path in paths}

        return self.world.agree(write, on=lambda world: True)[0] or {}


@dataclass(frozen=True)
class Config:
    """What a user asks for.

    Attributes:
        number: tells configs apart, as a fingerprint would.
        ledger: with which a run of it begins.
    """

    number: int
    ledger: Ledger
    micro_batch_size: int
    steps: int
    save_every: int
    keep: int
    allow_change: bool = False


class Training:
    """One start of training: goes on from what is in the folder, and from nothing else."""

    def __init__(self, folder: Path, config: Config, *, ranks: int, generation: int, uid: str) -> None:
        """Raises DataError as the trainer does: other data, or no checkpoint that is whole."""
        self.config, self.ranks, self.generation, self.uid = config, ranks, generation, uid
        world = PlayedWorld(0, 0, ranks, torch.device("cpu"), control=None)  # type: ignore[arg-type]  # unused
        found = load.newest_whole(folder)
        self.ledger, self.weights = config.ledger, np.empty((0, 5), np.int64)
        if found is not None:
            self.ledger = config.ledger.continued_from(found.manifest.ledger, allow_change=config.allow_change)
            self.weights = read(found)
        retention.clean(folder, generation=generation)
        start = load.new_start(job=uid, generation=generation, attempt=generation, found=found, world_size=ranks)
        load.record_start(folder, start)
        self.start = start.start
        self.writer = ListWriter(
            folder,
            job="job",
            uid=uid,
            generation=generation,
            attempt=generation,
            keep=config.keep,
            model={},
            world=world,
            start=start.start,
        )
        self.resumed_step = found.manifest.step if found else 0
        changed = len(self.weights) and int(self.weights[-1, CONFIG]) != config.number
        self.segment = (int(self.weights[-1, SEGMENT]) if len(self.weights) else 0) + int(changed)

    def train(self) -> None:
        """One optimizer step: each rank trains its share."""
        batch = self.ledger.batch()
        places = np.arange(len(batch.samples))
        shares = [
            micro_batches(places, rank=rank, world_size=self.ranks, micro_batch_size=self.config.micro_batch_size)
            for rank in range(self.ranks)
        ]
        assert len({len(share) for share in shares}) == 1, "ranks make different numbers of micro-steps, and hang"
        dealt = np.concatenate([part for share in shares for part in share])
        rows = np.empty((len(dealt), 5), np.int64)
        rows[:, CONFIG], rows[:, SEGMENT], rows[:, STEP] = self.config.number, self.segment, self.ledger.step + 1
        rows[:, EPOCH], rows[:, SAMPLE] = batch.epochs[dealt], batch.samples[dealt]
        self.ledger = self.ledger.advance(batch)
        self.weights = np.concatenate([self.weights, rows])

    def read_ahead(self, steps: int) -> None:
        """What a loader does while the step is made."""
        ahead = self.ledger
        for _ in range(steps):
            ahead = ahead.advance(ahead.batch())

    def save(self) -> None:
        self.writer.save({"weights": self.weights}, self.ledger.to_json())

    def saves_in(self, checkpoint: Path) -> bool:
        """Whether it is this training that has saved it."""
        try:
            made = layout.read_manifest(checkpoint)
        except (OSError, ValueError, TypeError):
            return False
        return made.start == self.start

    @property
    def finished(self) -> bool:
        return self.ledger.step >= self.config.steps

    @property
    def due(self) -> bool:
        return self.finished or self.ledger.step % self.config.save_every == 0


def read(found: load.Found[Any]) -> Weights:
    """The weights of a checkpoint."""
    try:
        parts = [np.frombuffer((found.path / name).read_bytes(), np.int64) for name in sorted(found.manifest.files)]
        return np.concatenate(parts).reshape(-1, 5)
    except ValueError as error:
        raise BrokenError(f"I10: torn weights were taken for whole: {error}") from error


class Points:
    """Every durable operation as a point at which something may happen; see `installed`."""

    def __init__(self) -> None:
        self._left = 0
        self._action: Callable[[], None] = lambda: None

    def arm(self, after: int, action: Callable[[], None]) -> None:
        """Has the action happen before the durable operation that comes after so many others."""
        self._left, self._action = after + 1, action

    def disarm(self) -> bool:
        """Whether it had not happened yet."""
        armed, self._left = self._left > 0, 0
        return armed

    def reach(self) -> None:
        if self._left:
            self._left -= 1
            if not self._left:
                self._action()


def install(points: Points, patch: Callable[[Any, str, Any], None]) -> None:
    """Puts the points into `durable`: a write is torn by what happens at its point, and a rename is not."""

    def write_bytes(path: Path, content: bytes) -> None:
        path.write_bytes(content[: len(content) // 2])
        points.reach()
        path.write_bytes(content)

    def rename(source: Path, target: Path) -> None:
        points.reach()
        source.rename(target)
        points.reach()

    patch(durable, "write_bytes", write_bytes)
    patch(durable, "rename", rename)
    patch(durable, "sync_folder", lambda folder: None)  # a killed process is no power cut
