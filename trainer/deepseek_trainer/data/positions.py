"""Deterministic mode: what a step trains on is a function of its number, whoever computes it.

A step's samples are known to all ranks without a word between them; the loader makes this rank's share of them ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseek_trainer.config import RunConfig
from deepseek_trainer.contract import Data as DataReport
from deepseek_trainer.data import agreed, readahead, store, tokenizer
from deepseek_trainer.data.audit.writer import AuditLog
from deepseek_trainer.data.feed import HeldOut, Step
from deepseek_trainer.data.ledger import Batch, Ledger
from deepseek_trainer.data.loader import Loader
from deepseek_trainer.data.samples import MicroBatch, Samples
from deepseek_trainer.data.shares import AHEAD, Shares
from deepseek_trainer.distributed.waits import Waits
from deepseek_trainer.distributed.world import World
from deepseek_trainer.progress import Progress


class PositionData:
    """A token store that is cut into samples."""

    def __init__(self, config: RunConfig, world: World, samples: Samples) -> None:
        self._config, self._world, self._samples = config, world, samples
        info = samples.store.info
        self.vocab_size, self.unigram_entropy = info.vocab_size, info.unigram_entropy
        self.vocabulary = samples.store.folder / tokenizer.FILE
        self.ledger = Ledger.of(config, fingerprint=info.fingerprint, samples=samples.training, layout=samples.layout)

    @property
    def facts(self) -> Mapping[str, object]:
        samples = self._samples
        return {"samples": samples.training, "held_out": samples.validation, "tokens": samples.store.info.tokens}

    def feed(self, ledger: Ledger, *, waits: Waits, progress: Progress, audit: AuditLog | None) -> PositionFeed:
        return PositionFeed(self._config, self._world, self._samples, ledger, waits, audit)


def open_data(config: RunConfig, world: World, environ: Mapping[str, str]) -> PositionData:
    """The data of a run, prepared if need be. A collective; for errors see `agreed.open_samples`."""
    return PositionData(config, world, agreed.open_samples(config, world, environ))


class PositionFeed:
    """One rank's share of each batch."""

    ended = False

    def __init__(
        self,
        config: RunConfig,
        world: World,
        samples: Samples,
        ledger: Ledger,
        waits: Waits,
        audit: AuditLog | None,
    ) -> None:
        self.ledger = ledger
        self._config, self._world, self._samples, self._waits, self._audit = config, world, samples, waits, audit
        training = config.trainer.training
        self._shares = (
            Shares(training.global_batch_size, world.data_size, world.slowest)
            if config.data.batching.dealing == "ByPace"
            else None
        )
        self._loader = _loader(config, world, samples, ledger, self._shares)
        self._batch: Batch | None = None
        self._places: list[NDArray[np.int64]] = []

    def next(self, stopping: Callable[[], bool]) -> Step:
        with self._waits.data():
            loaded = self._loader.step(self.ledger.step)
        self._batch, self._places = loaded.batch, []
        return Step(loaded.micro_steps, loaded.tokens, loaded.targets)

    def micro_batch(self) -> MicroBatch:
        with self._waits.data():
            places, made = self._loader.micro_batch()
        self._places.append(places)
        return made

    def trained(self) -> None:
        assert self._batch is not None  # noqa: S101  it was asked for by `next`
        self.ledger = self.ledger.advance(self._batch)
        if self._audit is not None:
            mine = np.concatenate(self._places)[: None if self._world.counts else 0]
            self._audit.record(self.ledger.step, self._batch.samples[mine], self._batch.epochs[mine])

    def paced(self, busy_s: float) -> None:
        if self._shares is not None:
            self._shares.stepped(self.ledger.step, busy_s)

    def held_out(self) -> HeldOut:
        """The first held-out samples: the same for every number of ranks and every step."""
        data, batches = self._samples, self._config.trainer.evaluation.batches
        chosen = data.training + np.arange(min(data.validation, batches * data.micro_batch_size))
        mine = data.micro_batches(chosen, rank=self._world.data_rank, world_size=self._world.data_size)
        return HeldOut((data.collate(chosen[places]) for places in mine), data.totals(chosen)[1])

    def cut(self) -> dict[str, Any]:
        return self.ledger.to_json()

    def report(self) -> DataReport:
        return store.report(self._samples.store)

    def close(self) -> None:
        self._loader.close()


def _loader(config: RunConfig, world: World, samples: Samples, ledger: Ledger, shares: Shares | None) -> Loader:
    """This rank's data from the ledger's step on."""
    ahead = readahead.of(samples, ledger) if config.data.shuffle.read_ahead else None

    def batches(step: int, count: int) -> Iterator[Batch]:
        here = replace(ledger, step=step)
        for number, batch in enumerate(here.batches(count), start=step):
            if ahead is not None:
                ahead.follow(replace(ledger, step=number))
            yield batch

    return Loader(
        samples,
        batches,
        first=ledger.step,
        last=config.trainer.training.steps,
        rank=world.data_rank,
        world_size=world.data_size,
        device=world.device,
        depth=None if shares is None else AHEAD,
        shares_of=(lambda step: None) if shares is None else shares.of,
    )
