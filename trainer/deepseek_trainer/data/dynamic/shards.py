"""A shard: one part of the source, tokenised and cut into rows, of which some are held out.

Everything here is a function of what the part was read from and of the run config, so a shard that is opened by another
rank, or again after a fault, has the same rows in the same order. It is tokenised by whoever comes first; a file that is
damaged or gone is made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseek_trainer.config import RunConfig
from deepseek_trainer.data import parts, samples
from deepseek_trainer.data.cuts import Cut, MaskedStream, Stream
from deepseek_trainer.data.dynamic.leases import Lease
from deepseek_trainer.data.dynamic.runs import ROWS_MAX
from deepseek_trainer.data.parts import Made, Part, Said
from deepseek_trainer.data.permutation import Permutation
from deepseek_trainer.data.samples import MicroBatch, Samples
from deepseek_trainer.data.store import StoreInfo, TokenStore
from deepseek_trainer.errors import DataError, UnavailableError

_TRIES = 3


@dataclass(frozen=True)
class Cutting:
    """How shards become rows.

    Attributes:
        masked: whether no token sees a document before its own.
        held_out: share of the rows that is never trained on.
        shuffled: whether the rows of a shard are trained in a keyed random order, another in each turn.
    """

    fingerprint: str
    seed: int
    length: int
    micro_batch_size: int
    masked: bool
    held_out: float
    shuffled: bool

    @classmethod
    def of(cls, config: RunConfig, fingerprint: str) -> Cutting:
        training, data = config.trainer.training, config.data
        return cls(
            fingerprint,
            training.seed,
            training.sequence_length,
            training.micro_batch_size,
            data.batching.document_mask,
            data.validation_fraction,
            shuffled=not data.dynamic.stream,
        )

    @property
    def layout(self) -> str:
        """What the rows of a shard depend on beside the data."""
        masked = ":masked" if self.masked else ""
        return f"stream:{self.length}{masked}:held-out:{self.held_out:g}"


@dataclass(frozen=True)
class Shard:
    """The rows of one lease.

    Attributes:
        mark: a hash of what it was read from.
        bad: records that were left out.
    """

    lease: Lease
    part: Part
    rows: Samples
    seed: int
    shuffled: bool
    mark: str
    bad: tuple[dict[str, Any], ...]

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """The training rows, in training order."""
        count = np.arange(self.rows.training, dtype=np.int64)
        if not self.shuffled or not len(count):
            return count
        key = f"{self.rows.store.info.fingerprint}:{self.seed}:shard:{self.lease.number}"
        return Permutation(len(count), key)[count]


class Rows:
    """Some rows of one or more shards, in order."""

    def __init__(self, runs: Sequence[tuple[Samples, NDArray[np.int64]]], length: int) -> None:
        """Args: length: of a row, at most."""
        self._runs, self._length = runs, length
        self._ends = np.cumsum([len(chosen) for _, chosen in runs], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def totals(self) -> tuple[int, int]:
        """Tokens in all of them, without padding, and how many of them are predicted."""
        each = [rows.totals(chosen) for rows, chosen in self._runs]
        return sum(tokens for tokens, _ in each), sum(targets for _, targets in each)

    def collate(self, places: NDArray[np.int64]) -> MicroBatch:
        """A micro-batch of the rows at these places, rising; of none one in which nothing is to be predicted."""
        if not len(places):
            return samples.nothing(self._length)
        made, run_of = [], np.searchsorted(self._ends, places, side="right")
        for number in np.unique(run_of):
            rows, chosen = self._runs[number]
            begin = self._ends[number] - len(chosen)
            made.append(rows.collate(chosen[places[run_of == number] - begin]))
        return samples.stacked(made)


def open_shard(lease: Lease, part: Part, cutting: Cutting) -> Shard:
    """Tokenises a part, unless somebody has, and cuts it into rows.

    Raises:
        DataError: it can't be read, it has too many rows, or it isn't what the first rows of the lease were read from.
        UnavailableError: the volume failed.
    """
    said, made = _made(part)
    tokens = len(made.tokens)
    if lease.mark and said.digest != lease.mark:
        raise DataError(
            f"{part.piece.path}: changed since the checkpoint, which has trained on {lease.offset} samples of the shard that "
            f"begins at {part.piece.start}; put the file back as it was, or start over in an empty checkpoint folder"
        )
    rows = _rows(part, made, cutting)
    if rows.cut.count > ROWS_MAX:
        raise DataError(
            f"{part.piece.path}: a shard of {tokens:,} tokens has more than {ROWS_MAX:,} samples of {cutting.length}; lower "
            "data.dynamic.shardBytes, cut the file into smaller ones, or raise trainer.training.sequenceLength"
        )
    return Shard(lease, part, rows, cutting.seed, cutting.shuffled, said.digest, said.bad)


def _made(part: Part) -> tuple[Said, Made]:
    try:
        for _ in range(_TRIES):
            parts.make(part)
            said, made = parts.look(part), parts.load(part)
            if said is not None and made is not None:
                return said, made
    except OSError as error:
        raise UnavailableError(
            f"dataCache: {part.folder}: {error.strerror or error}; is the volume mounted, writable and not full?"
        ) from error
    raise UnavailableError(f"dataCache: {part.path} is gone or damaged each time when it is read; is the volume sound?")


def _rows(part: Part, made: Made, cutting: Cutting) -> Samples:
    tokens = len(made.tokens)
    documents = np.concatenate([np.zeros(1, np.int64), np.cumsum(made.lengths)])
    store = TokenStore(
        Path(part.folder),
        StoreInfo(cutting.fingerprint, tokens, len(made.lengths), len(made.counts), made.tokens.dtype.name, 0.0, {}),
        made.tokens,
        documents,
        made.targets,
    )
    cut: Cut = Stream(tokens, cutting.length)
    if cutting.masked:
        cut = MaskedStream(Stream(tokens, cutting.length), documents)
    held_out = _held_out(part, cut.count, cutting)
    return Samples(store, cut, cutting.length, cutting.micro_batch_size, None, cut.count - held_out, held_out)


def _held_out(part: Part, count: int, cutting: Cutting) -> int:
    """How many of a shard's rows are held out: its share, rounded up or down by a keyed chance, so that the sum is right."""
    key = f"{cutting.fingerprint}:{part.piece.name}:{part.piece.start}:held-out"
    chance = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    return max(0, min(int(count * cutting.held_out + chance), count - 1))
