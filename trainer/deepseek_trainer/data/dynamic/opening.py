"""From `spec.data` to shards: what is known before the first of them is tokenised.

No store is made. The tokenizer is provided (trained, if need be, on parts that lie evenly in the source; of a stream on
its first file), the source is cut, and the ranks see that they mean the same.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from deepseek_trainer.config import RunConfig
from deepseek_trainer.data import agreed, preparation, prepare, tokenizer
from deepseek_trainer.data.audit.writer import AuditLog
from deepseek_trainer.data.dynamic.ahead import Ahead
from deepseek_trainer.data.dynamic.arrivals import Announcer, Stream, part_number
from deepseek_trainer.data.dynamic.feed import LeaseFeed
from deepseek_trainer.data.dynamic.leases import Desk, LeaseBook
from deepseek_trainer.data.dynamic.ledger import LeaseLedger
from deepseek_trainer.data.dynamic.shards import Cutting
from deepseek_trainer.data.dynamic.stream import Journal
from deepseek_trainer.data.dynamic.turns import Turns
from deepseek_trainer.data.parts import Part
from deepseek_trainer.data.preparation import Preparation
from deepseek_trainer.data.processes import Executor
from deepseek_trainer.data.sources import File, Piece, Source
from deepseek_trainer.distributed.waits import Waits
from deepseek_trainer.distributed.world import World
from deepseek_trainer.errors import DataError
from deepseek_trainer.progress import Progress
from deepseek_trainer.raycluster import executor

_PAUSE_S = 0.5


class LeaseData:
    """A source in shards."""

    unigram_entropy = None

    def __init__(self, config: RunConfig, world: World, wanted: Preparation, execute: Executor | None = None) -> None:
        """Args:
        wanted: with its tokenizer in the work folder.
        execute: who tokenises shards ahead of the ranks.
        """
        self._config, self._world, self._wanted, self._execute = config, world, wanted, execute
        self.vocabulary = wanted.work / tokenizer.FILE
        vocabulary = self.vocabulary.read_bytes()
        self.vocab_size = tokenizer.size_of(Tokenizer.from_buffer(vocabulary))
        self.fingerprint = _fingerprint(config, wanted, vocabulary)
        self._cutting = Cutting.of(config, self.fingerprint)
        training, dynamic = config.trainer.training, config.data.dynamic
        self.ledger = LeaseLedger(
            self.fingerprint,
            f"{self._cutting.layout}:shards:{dynamic.shard_bytes}",
            training.seed,
            training.global_batch_size,
            0 if dynamic.stream else len(wanted.parts),
        )

    @property
    def facts(self) -> Mapping[str, object]:
        return {
            "shards": self.ledger.shards or "arriving",
            "shard_bytes": self._config.data.dynamic.shard_bytes,
        }

    def feed(self, ledger: LeaseLedger, *, waits: Waits, progress: Progress, audit: AuditLog | None) -> LeaseFeed:
        start = self._world.lead(self._begin)
        desk = Desk(LeaseBook(ledger), self._world.store, start)
        shards = (
            self._stream(ledger, start, desk)
            if self._config.data.dynamic.stream
            else Turns(self._wanted.parts, f"{self.fingerprint}:{ledger.seed}")
        )
        ahead = None
        if self._execute is not None and self._world.leader:
            ahead = Ahead(desk, shards.part, self._execute, left=2 * self._world.size)
        return LeaseFeed(
            self._config,
            self._world,
            ledger,
            self._cutting,
            shards,
            desk.take,
            waits=waits,
            progress=progress,
            audit=audit,
            ahead=ahead,
        )

    def _begin(self) -> str:
        """Removes what killed processes left half written, and of a stream all shards; a name that no other start has."""
        streams = self._config.data.dynamic.stream
        for left in self._wanted.work.iterdir():
            if left.is_file() and (left.name.startswith(".") or (streams and left.suffix == ".npz")):
                left.unlink(missing_ok=True)
        return secrets.token_hex(8)

    def _stream(self, ledger: LeaseLedger, start: str, desk: Desk) -> Stream:
        announcers: list[Announcer] = []

        def announce() -> None:
            journal = _journal(self._config, ledger.files)
            announcers.append(Announcer(journal, self._world.store, start, lambda: desk.coming(1)[0]))

        self._world.lead(announce)
        return Stream(
            self._world.store,
            start,
            make_part=self._part,
            announcer=announcers[0] if announcers else None,
            clears=self._world.local_rank == 0,
        )

    def _part(self, piece: Piece, state: tuple[int, ...]) -> Part:
        wanted = self._wanted
        may_skip = self._config.data.max_bad_records if self._config.data.on_bad_record == "Quarantine" else None
        return Part(part_number(piece, state), piece, wanted.reading, str(wanted.work), may_skip)


def open_data(config: RunConfig, world: World, progress: Progress, environ: Mapping[str, str]) -> LeaseData:
    """What the ranks take leases of. A collective; it waits for the first file of a stream that has none yet.

    Raises:
        DataError, UnavailableError: the source can't be read, or the ranks have different ones.
        ConfigError: the tokenizer or the chat template can't be had.
    """
    first = _first_arrived(config, world, progress)
    opened: list[Preparation] = []

    def provide() -> None:
        with prepare.named_errors(config):
            opened[:] = [_provided(config, environ, first)]

    world.lead(provide)
    world.agree(provide, on=lambda world: world.local_rank == 0)
    world.agree(provide, on=lambda world: True)
    data = LeaseData(config, world, opened[0], executor.of(environ))
    agreed.require_same(world, data.fingerprint)
    return data


def _fingerprint(config: RunConfig, wanted: Preparation, vocabulary: bytes) -> str:
    """Equal where shards are the same, as far as that is known without reading them."""
    pieces = [] if config.data.dynamic.stream else [part.piece for part in wanted.parts]
    cut = [(piece.name, piece.start, piece.end, piece.bytes) for piece in pieces]
    return hashlib.sha256(json.dumps([wanted.shape, hashlib.sha256(vocabulary).hexdigest(), cut]).encode()).hexdigest()


def _provided(config: RunConfig, environ: Mapping[str, str], first: Sequence[File]) -> Preparation:
    """What is prepared, its tokenizer in the work folder."""
    dynamic, name = config.data.dynamic, str(config.data.path)
    source = Source(name, ()) if dynamic.stream else None  # what a stream will have is no part of what it is
    wanted = preparation.plan(config, environ, dynamic.shard_bytes, source)
    wanted.work.mkdir(parents=True, exist_ok=True)
    prepare.provide_tokenizer(replace(wanted, source=Source(name, tuple(first))) if dynamic.stream else wanted)
    if not dynamic.stream and not wanted.parts:
        raise DataError("there is no text in it; see that the files are the right ones and have text")
    return wanted


def _first_arrived(config: RunConfig, world: World, progress: Progress) -> list[File]:
    """Of a stream the first file, where the vocabulary is to be trained on it; waits for it. A collective."""
    if not config.data.dynamic.stream or config.trainer.tokenizer.kind != "bpe":
        return []
    journal = _journal(config, {})
    while not (found := world.lead(lambda: [arrived.file for arrived in journal.look()][:1])):
        if world.lead(lambda: journal.ended):
            raise DataError(f"data.path {config.data.path}: the stream has ended, and there is no file in it")
        progress.update(phase="waiting")
        progress.pulse.tick()
        time.sleep(_PAUSE_S)
    progress.update(phase="preparing")
    return found


def _journal(config: RunConfig, files: dict[str, Any]) -> Journal:
    folder, cache = Path(str(config.data.path)), Path(config.data_cache)
    return Journal(folder, cache, config.data.dynamic.shard_bytes, files)
