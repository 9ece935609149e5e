"""One rank's part of Dynamic mode: it trains rows of the shards that it has leased, as many as its pace allows.

A step has a global batch of rows, of whatever shards the ranks hold. How many each trains is agreed on without a word
where the source has no end (`shares`), else by what each has (`dealing`). The ranks then tell each other how many tokens
they bring, as the loss is a mean over those of all.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from deepseek_trainer.config import ConfigError, RunConfig
from deepseek_trainer.contract import Data as DataReport
from deepseek_trainer.data import deal
from deepseek_trainer.data.audit.writer import AuditLog
from deepseek_trainer.data.dynamic import contents
from deepseek_trainer.data.dynamic.ahead import Ahead
from deepseek_trainer.data.dynamic.contents import Contents
from deepseek_trainer.data.dynamic.dealing import dealt
from deepseek_trainer.data.dynamic.leases import Lease
from deepseek_trainer.data.dynamic.ledger import LeaseLedger
from deepseek_trainer.data.dynamic.runs import Run, append
from deepseek_trainer.data.dynamic.shards import Cutting, Rows, Shard, open_shard
from deepseek_trainer.data.dynamic.supply import Lack, Supply
from deepseek_trainer.data.feed import HeldOut, Step
from deepseek_trainer.data.parts import Part
from deepseek_trainer.data.samples import MicroBatch
from deepseek_trainer.data.shares import Shares
from deepseek_trainer.distributed.waits import Waits
from deepseek_trainer.distributed.world import World
from deepseek_trainer.errors import DataError, TrainerError
from deepseek_trainer.logs import fields
from deepseek_trainer.progress import Progress

log = logging.getLogger(__name__)

_PAUSE_S = 0.2
_EVALUATED_SHARDS = 1024
"""Shards that are looked through, at most, for rows to evaluate on."""


class Shards(Protocol):
    """What the leases are of."""

    @property
    def count(self) -> int | None:
        """How many there are; None: a stream."""

    def part(self, lease: int) -> Part | Lack: ...
    def evaluated(self) -> Iterator[Part]: ...
    def files(self, ledger: LeaseLedger) -> dict[str, Any]: ...
    def forget(self, low: int) -> None: ...
    def close(self) -> None: ...


class Said(NamedTuple):
    """What a rank brings to a cut.

    Attributes:
        marks: of the leases that it has begun.
        done: contents of the shards that it has finished for the first time.
    """

    runs: list[Run]
    marks: dict[int, str]
    done: list[Contents]


class LeaseFeed:
    """One rank's rows."""

    def __init__(  # noqa: PLR0913  what a feed of either mode is made of
        self,
        config: RunConfig,
        world: World,
        ledger: LeaseLedger,
        cutting: Cutting,
        shards: Shards,
        take: Callable[[], Lease],
        *,
        waits: Waits,
        progress: Progress,
        audit: AuditLog | None,
        ahead: Ahead | None = None,
    ) -> None:
        """Args:
        take: gives out leases of what the ledger leaves.
        ahead: is closed with this.
        """
        self.ledger, self.ended = ledger, False
        self._committed = ledger
        self._config, self._world, self._cutting, self._shards = config, world, cutting, shards
        self._waits, self._progress, self._audit, self._ahead = waits, progress, audit, ahead
        training = config.trainer.training
        self._shares = Shares(training.global_batch_size, world.size, world.gather)
        self._supply = Supply(take, self._open, empty_max=shards.count)
        self._runs: list[Run] = []
        self._marks: dict[int, str] = {}
        self._done: list[Contents] = []
        self._taken: list[tuple[Shard, Run, NDArray[np.int64]]] = []
        self._batch = 0
        self._micro_batches: Iterator[MicroBatch] = iter(())
        self._held_out: Rows | None = None

    def next(self, stopping: Callable[[], bool]) -> Step | None:
        counts = self._shares.of(self.ledger.step) if self._shards.count else self._arriving(stopping)
        if counts is None:
            return None
        with self._waits.data():
            error = self._attempt(lambda: self._take(int(counts[self._world.rank])))
            rows = Rows([(shard.rows, chosen) for shard, _, chosen in self._taken], self._cutting.length)
            mine = rows.totals()
        tokens, targets = self._exchange(error, *mine).sum(axis=0).tolist()
        self._batch = int(counts.sum())
        micro_steps = max(1, math.ceil(int(counts.max()) / self._cutting.micro_batch_size))
        self._micro_batches = map(rows.collate, np.array_split(np.arange(len(rows)), micro_steps))
        return Step(micro_steps, tokens, max(1, targets))

    def micro_batch(self) -> MicroBatch:
        with self._waits.data():
            made = next(self._micro_batches)
            return (made.pinned() if self._world.device.type == "cuda" else made).to(self._world.device)

    def trained(self) -> None:
        runs = [run for _, run, _ in self._taken]
        self.ledger = replace(self.ledger, step=self.ledger.step + 1, samples=self.ledger.samples + self._batch)
        if self._audit is not None:
            self._audit.record_runs(self.ledger.step, runs)
        for shard, run, _ in self._taken:
            append(self._runs, run)
            self._marks[run.lease] = shard.mark
            if run.ends:
                del self._marks[run.lease]
                if self._shards.count is None or run.lease < self._shards.count:
                    self._done.append(contents.of(shard.rows.store.info, shard.bad))

    def paced(self, busy_s: float) -> None:
        self._shares.stepped(self.ledger.step, busy_s)

    def cut(self) -> dict[str, Any]:
        """Puts together what the ranks have trained since the last cut.

        Raises:
            DataError: more records were bad than may be, or the files of a stream aren't what they were.
        """
        said = self._world.gather(Said(self._runs, self._marks, self._done))
        marks = {lease: mark for one in said for lease, mark in one.marks.items()}
        cut = self._committed.cut(self.ledger.step, (run for one in said for run in one.runs), marks)
        cut = replace(cut, contents=cut.contents.with_more(done for one in said for done in one.done))
        cut.contents.require_few_bad(self._config.data.max_bad_records)
        if self._shards.count is None:
            cut = replace(cut, files=self._world.lead(lambda: self._shards.files(cut)))
        self._shards.forget(self._committed.low)
        self.ledger = self._committed = cut
        self._runs, self._marks, self._done = [], {}, []
        return cut.to_json()

    def held_out(self) -> HeldOut:
        """Held-out rows of the first shards, in an order of their own; of a stream of those that are there."""
        wanted = self._config.trainer.evaluation.batches * self._cutting.micro_batch_size
        if self._held_out is None or (self._shards.count is None and len(self._held_out) < wanted):
            left, found = wanted, []
            for part in self._world.lead(lambda: self._evaluated(wanted)):
                shard = open_shard(Lease(0), part, self._cutting).rows
                found.append((shard, shard.training + np.arange(min(left, shard.validation))))
                left -= len(found[-1][1])
            self._held_out = Rows(found, self._cutting.length)
        rows = self._held_out
        mine = deal.micro_batches(
            np.arange(len(rows)),
            rank=self._world.rank,
            world_size=self._world.size,
            micro_batch_size=self._cutting.micro_batch_size,
        )
        return HeldOut(map(rows.collate, mine), rows.totals()[1])

    def report(self) -> DataReport | None:
        return self._committed.contents.report()

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
        self._supply.close()
        self._shards.close()

    def _open(self, lease: Lease) -> Shard | Lack:
        part = self._shards.part(lease.number)
        return part if isinstance(part, str) else open_shard(lease, part, self._cutting)

    def _arriving(self, stopping: Callable[[], bool]) -> NDArray[np.int64] | None:
        """The rows of each rank in a step of a stream, once there are enough; None: there is no step."""
        shares, waited = self._shares.of(self.ledger.step), False
        mine = int(shares[self._world.rank])
        hold = int(shares.sum()) if mine else 0  # who has no share leases nothing: it would never train it
        while True:
            found = (0, False)

            def look() -> None:
                nonlocal found
                found = self._supply.await_rows(mine, hold)

            with self._waits.data():
                error = self._attempt(look)
            available, ended, told = self._exchange(error, *map(int, found), int(stopping())).T
            counts = dealt(shares, available, ended=bool(ended.all()))
            if counts is not None or told.any():
                break
            if not waited:
                log.info("waiting for data %s", fields(step=self.ledger.step, rows=int(available.sum())))
                self._progress.update(phase="waiting")
                waited = True
            self._progress.pulse.tick()
            time.sleep(_PAUSE_S)
        if waited:
            self._progress.update(phase="training")
            self._progress.started()
        if counts is not None and not counts.any():
            self.ended, counts = True, None
            if not self.ledger.samples:
                raise DataError(
                    f"data.path {self._config.data.path}: the stream has ended, and there was nothing in it to train on"
                )
        return counts

    def _take(self, count: int) -> None:
        self._supply.await_rows(count)
        self._taken = self._supply.take(count)

    def _attempt(self, work: Callable[[], None]) -> TrainerError | ConfigError | None:
        """The error that the others have to hear of, too."""
        try:
            work()
        except (TrainerError, ConfigError) as error:
            self._taken = []
            return error
        return None

    def _exchange(self, error: TrainerError | ConfigError | None, *values: int) -> NDArray[np.int64]:
        """Every rank's numbers, int64, shape (size, len(values)); raises on all what one has met."""
        with self._waits.collective():
            *_, failed = (table := self._world.numbers(*values, int(error is not None))).T
        if failed.any():
            self._world.agree(lambda: _throw(error), on=lambda world: error is not None)
        return table[:, :-1]

    def _evaluated(self, wanted: int) -> list[Part]:
        """The first shards that have so many held-out rows together."""
        chosen: list[Part] = []
        for part in islice(self._shards.evaluated(), _EVALUATED_SHARDS):
            if (held_out := open_shard(Lease(0), part, self._cutting).rows.validation) > 0:
                chosen.append(part)
                wanted -= held_out
            if wanted <= 0:
                break
        return chosen


def _throw(error: TrainerError | ConfigError | None) -> None:
    if error is not None:
        raise error
