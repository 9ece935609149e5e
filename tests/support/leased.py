"""A job in Dynamic mode without a model: the product's own opening, leases, supply, feed and ledger, its ranks as threads.

The weights are the rows that they were trained on: a hash of what the model would have been shown, so that nothing has to
be believed of what the product says it has trained. What is committed is the ledger, as JSON, and the weights with it.
"""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from deepseek_trainer.config import RunConfig
from deepseek_trainer.data import parts
from deepseek_trainer.data.dynamic import arrivals, feed, opening, supply
from deepseek_trainer.data.dynamic.ledger import LeaseLedger
from deepseek_trainer.data.dynamic.runs import Run
from deepseek_trainer.data.samples import IGNORED, MicroBatch
from deepseek_trainer.distributed.waits import Waits
from deepseek_trainer.distributed.world import World
from deepseek_trainer.progress import Progress
from deepseek_trainer.pulse import PulseWriter
from deepseek_trainer.report import Reporter
from numpy.typing import NDArray
from torch.distributed import HashStore, Store  # type: ignore[attr-defined]  # exported by a star

T = TypeVar("T")
LENGTH, BATCH = 8, 6
Commit = tuple[dict[str, Any], Counter[bytes]]
"""A ledger and the weights that were saved with it."""


class Killed(BaseException):
    """The process is gone."""


@dataclass
class Meeting:
    """Where the ranks of one start meet."""

    size: int
    store: Store = field(default_factory=HashStore)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.size)
        self.values: list[Any] = [None] * self.size


@dataclass(frozen=True, kw_only=True)
class ThreadWorld(World):
    """A rank that is a thread."""

    meeting: Meeting

    @property
    def store(self) -> Store:
        return self.meeting.store

    def gather(self, value: T) -> list[T]:
        meeting = self.meeting
        meeting.values[self.rank] = value
        meeting.barrier.wait(30)
        values = list(meeting.values)
        meeting.barrier.wait(30)
        return values

    def numbers(self, *values: int) -> NDArray[np.int64]:
        return np.array(self.gather(values), dtype=np.int64)


class Noted:
    """What the audit is told of one rank."""

    def __init__(self) -> None:
        self.runs: list[tuple[int, Run]] = []

    def record_runs(self, step: int, runs: list[Run]) -> None:
        self.runs += [(step, run) for run in runs]


@dataclass
class Job:
    """What outlives a start."""

    config: RunConfig
    commits: list[Commit] = field(default_factory=list)
    ended: bool = False
    trained: int = 0
    """Rows, of all starts."""

    @property
    def newest(self) -> Commit:
        return self.commits[-1] if self.commits else ({}, Counter())

    def start(
        self,
        ranks: int,
        *,
        rng: random.Random,
        steps: int,
        every: int = 2,
        kill: Callable[[int, int, str], bool] = lambda rank, step, where: False,
        commits: bool = True,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        """Trains so many steps more, or to the end of a stream.

        Args:
            every: steps between two checkpoints.
            kill: whether a rank dies at a step; where: next, trained, cut (before what was cut is committed).
            commits: false: another start has taken over, and nothing of this one is committed any more.
            meanwhile: called by rank 0 each time when it looks for data of a stream.
        """
        meeting = Meeting(ranks)
        seeds = [rng.random() for _ in range(ranks)]
        begin, weights = self.newest
        new: list[Counter[bytes]] = [Counter() for _ in range(ranks)]

        def run(rank: int) -> None:
            try:
                self._rank(
                    rank,
                    begin,
                    weights,
                    new,
                    meeting,
                    random.Random(seeds[rank]),
                    steps,
                    every,
                    kill,
                    commits,
                    meanwhile,
                )
            except BaseException:
                meeting.barrier.abort()
                raise

        with ThreadPoolExecutor(ranks) as pool:
            outcomes = [future.exception() for future in [pool.submit(run, rank) for rank in range(ranks)]]
        self.trained += sum(sum(counter.values()) for counter in new)
        errors = [error for error in outcomes if error]
        own = [error for error in errors if not isinstance(error, (Killed, threading.BrokenBarrierError))]
        if own:
            raise own[0]
        if errors and not any(isinstance(error, Killed) for error in errors):
            raise errors[0]  # nobody died: a rank was not there in time

    def _rank(
        self,
        rank: int,
        begin: dict[str, Any],
        weights: Counter[bytes],
        new: list[Counter[bytes]],
        meeting: Meeting,
        rng: random.Random,
        steps: int,
        every: int,
        kill: Callable[[int, int, str], bool],
        commits: bool,
        meanwhile: Callable[[], object],
    ) -> None:
        def point(step: int, where: str) -> None:
            if kill(rank, step, where):
                raise Killed

        def told_to_end() -> bool:
            meanwhile()
            return False

        world = ThreadWorld(rank, rank, meeting.size, torch.device("cpu"), cast(Any, None), meeting=meeting)
        pulse = PulseWriter(None)
        progress = Progress(Reporter(None), pulse)
        data = opening.open_data(self.config, world, progress, {})
        ledger = data.ledger.continued_from(begin) if begin else data.ledger
        waits = Waits(pulse, world.device)
        with closing(data.feed(ledger, waits=waits, progress=progress, audit=cast(Any, Noted()))) as feed:
            last = ledger.step + steps
            while feed.ledger.step < last:
                point(feed.ledger.step, "next")
                step = feed.next(told_to_end if rank == 0 else lambda: False)
                if step is not None:
                    made = [feed.micro_batch() for _ in range(step.micro_steps)]
                    new[rank].update(row for micro_batch in made for row in shown(micro_batch))
                    told = world.gather((step, sum(int((one.labels != IGNORED).sum()) for one in made)))
                    assert {one for one, _ in told} == {step}, "the ranks agree about the step"
                    assert sum(targets for _, targets in told) == step.targets
                    feed.trained()
                    point(feed.ledger.step, "trained")
                    feed.paced(rng.uniform(0.1, 1.0))
                if feed.ended or feed.ledger.step == last or feed.ledger.step % every == 0:
                    cut = json.loads(json.dumps(feed.cut()))
                    point(feed.ledger.step, "cut")
                    world.gather(None)
                    if rank == 0 and commits:
                        self.commits.append((cut, sum(new, Counter(weights))))
                        self.ended = feed.ended
                    world.gather(None)
                if feed.ended:
                    return


def shown(micro_batch: MicroBatch) -> Iterator[bytes]:
    """What a model is shown of each row, without padding."""
    for inputs, labels in zip(micro_batch.inputs.numpy(), micro_batch.labels.numpy(), strict=True):
        if (labels != IGNORED).any():
            wanted = labels[labels != IGNORED]
            yield inputs[: len(wanted)].tobytes() + wanted.tobytes()


def alone() -> World:
    """A world of one."""
    return ThreadWorld(0, 0, 1, torch.device("cpu"), cast(Any, None), meeting=Meeting(1))


def rows_of(wanted: Any) -> Counter[bytes]:
    """All rows of the shards of a source, cut here by hand."""
    rows: Counter[bytes] = Counter()
    for part in wanted:
        parts.make(part)
        made = parts.load(part)
        assert made is not None
        tokens = made.tokens.astype(np.int64)
        for begin in range(0, len(tokens) - 1, LENGTH):
            row = tokens[begin : begin + LENGTH + 1]
            rows[row[:-1].tobytes() + row[1:].tobytes()] += 1
    return rows


def quicken(patch: Callable[[Any, str, Any], None]) -> None:
    """Waits that are long for a test."""
    for module, name in ((feed, "_PAUSE_S"), (supply, "_POLL_S"), (arrivals, "_LOOK_EVERY_S"), (opening, "_PAUSE_S")):
        patch(module, name, 0.002)


def config_of(path: Path, cache: Path, **data: Any) -> RunConfig:
    """A run config with short rows and small shards."""
    training = {"steps": 10**6, "globalBatchSize": BATCH, "microBatchSize": 2, "sequenceLength": LENGTH}
    return RunConfig.model_validate(
        {
            "job": "job",
            "trainer": {"training": training, "tokenizer": {"vocabSize": 512}, "evaluation": {"batches": 2}},
            "data": {"path": str(path), "mode": "Dynamic", "validationFraction": 0.1, **data},
            "dataCache": str(cache),
        }
    )


def text_of(rng: random.Random, lines: int) -> str:
    """JSON lines, no two alike."""
    return "".join(json.dumps({"text": f"{rng.getrandbits(64):x}"}) + "\n" for _ in range(lines))


def ledger_of(commit: Commit, config: RunConfig) -> LeaseLedger:
    """A commit's ledger, as it was."""
    saved = commit[0]
    fresh = LeaseLedger(saved["fingerprint"], saved["layout"], saved["seed"], saved["global_batch"], saved["shards"])
    return fresh.continued_from(saved)
