"""The samples of a token store: which are trained on and which are held out, and micro-batches of them.

Samples [0, training) are trained on, [training, training + validation) are held out. Held out is each k-th sample of the
store, for any run and seed: so neighbours in the store stay neighbours in the numbering, and a reader of neighbouring
samples reads neighbouring bytes. The held-out ones are numbered in a fixed order of their own, so that the first few of
them are of all parts of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import pad

from deepseek_trainer.config import RunConfig
from deepseek_trainer.data import buckets, deal, index
from deepseek_trainer.data.cuts import Cut, MaskedStream, Pieces, Stream
from deepseek_trainer.data.permutation import Permutation
from deepseek_trainer.data.store import TokenStore
from deepseek_trainer.errors import DataError

IGNORED = -100
"""The label of what is not to be predicted."""
MULTIPLE = 8
"""Rows that are padded have a multiple of so many tokens, as matrix units like it."""


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one forward pass.

    Attributes:
        inputs: int64, shape (rows, width); 0 where there is nothing.
        labels: int64, same shape: the token to be predicted there, or IGNORED.
        positions: int64, same shape: 0 at the start of each piece, and counting up in it; None when no row has more than
            one piece, and they are 0, 1, 2 … in each.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor | None

    def pinned(self) -> MicroBatch:
        """In memory that a GPU can copy from by itself."""
        positions = None if self.positions is None else self.positions.pin_memory()
        return MicroBatch(self.inputs.pin_memory(), self.labels.pin_memory(), positions)

    def to(self, device: torch.device) -> MicroBatch:
        """On that device; without a wait when it is pinned."""
        positions = None if self.positions is None else self.positions.to(device, non_blocking=True)
        return MicroBatch(
            self.inputs.to(device, non_blocking=True), self.labels.to(device, non_blocking=True), positions
        )


def nothing(length: int) -> MicroBatch:
    """A row in which nothing is to be predicted: for a rank that takes part in the collectives of the others."""
    shape = (1, min(length, MULTIPLE))
    return MicroBatch(torch.zeros(shape, dtype=torch.int64), torch.full(shape, IGNORED), None)


def stacked(parts: Sequence[MicroBatch]) -> MicroBatch:
    """The rows of one or more micro-batches in one, padded to the widest."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.inputs.shape[1] for part in parts)

    def joined(tensors: Sequence[torch.Tensor], filling: int) -> torch.Tensor:
        return torch.cat([pad(tensor, (0, width - tensor.shape[1]), value=filling) for tensor in tensors])

    positions = None
    if any(part.positions is not None for part in parts):
        positions = joined([_positions(part) for part in parts], 0)
    return MicroBatch(
        joined([part.inputs for part in parts], 0), joined([part.labels for part in parts], IGNORED), positions
    )


def _positions(part: MicroBatch) -> torch.Tensor:
    if part.positions is not None:
        return part.positions
    return torch.arange(part.inputs.shape[1]).expand_as(part.inputs)


@dataclass(frozen=True)
class Samples:
    """All samples of one store.

    Attributes:
        length: the most tokens in a row, L.
        micro_batch_size: the most rows in a micro-batch.
        budget: the most tokens in one, padding included, whatever the number of rows; None: the rows count.
        training: number of training samples.
        validation: number of held-out samples.
    """

    store: TokenStore
    cut: Cut
    length: int
    micro_batch_size: int
    budget: int | None
    training: int
    validation: int

    @property
    def layout(self) -> str:
        """How the store is cut into samples."""
        return self.cut.layout

    @property
    def micro_batch_bytes(self) -> int:
        """The most that a micro-batch takes, up to one sample: inputs, labels and positions."""
        return 3 * 8 * (self.budget or self.micro_batch_size * self.length)

    def lengths(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens in the row of each sample, without padding; int64, shape (len(samples),)."""
        pieces = self._pieces(samples)
        return _sums(pieces.lengths, pieces.rows, len(samples))

    def targets(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens that are predicted in each sample; int64, shape (len(samples),)."""
        pieces = self._pieces(samples)
        return _sums(self._predicted(pieces), pieces.rows, len(samples))

    def totals(self, samples: NDArray[np.int64]) -> tuple[int, int]:
        """Tokens in all of these samples, without padding, and how many of them are predicted."""
        pieces = self._pieces(samples)
        return int(pieces.lengths.sum()), int(self._predicted(pieces).sum())

    def extents(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The tokens that samples are made of: int64, for each piece its first token and the one after its last."""
        pieces = self._pieces(samples)
        return pieces.starts, pieces.starts + pieces.lengths + 1

    def collate(self, samples: NDArray[np.int64]) -> MicroBatch:
        """One row a sample, padded to the longest one's tokens rounded up to a multiple of eight, L at most.

        Of no samples it is a row in which nothing is to be predicted: for a rank that has run out of them, but has to
        take part in the collectives of the others.
        """
        pieces = self._pieces(samples)
        sizes = _sums(pieces.lengths, pieces.rows, len(samples))
        longest = int(sizes.max(initial=1))
        shape = (max(1, len(samples)), min(self.length, -(-longest // MULTIPLE) * MULTIPLE))
        inputs, labels = np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64)
        positions, columns = None, np.zeros_like(pieces.starts)
        if (pieces.rows[1:] == pieces.rows[:-1]).any():
            positions, counting = np.zeros(shape, np.int64), np.arange(shape[1])
            columns = np.cumsum(pieces.lengths) - pieces.lengths - (np.cumsum(sizes) - sizes)[pieces.rows]
        for start, length, row, column in zip(*(values.tolist() for values in (*pieces, columns)), strict=True):
            tokens = self.store.tokens[start : start + length + 1]
            inputs[row, column : column + length] = tokens[:-1]
            labels[row, column : column + length] = tokens[1:]
            if self.store.targets is not None:
                wanted = self.store.targets[start + 1 : start + length + 1]
                labels[row, column : column + length][wanted == 0] = IGNORED
            if positions is not None:
                positions[row, column : column + length] = counting[:length]
        return MicroBatch(
            torch.from_numpy(inputs),
            torch.from_numpy(labels),
            None if positions is None else torch.from_numpy(positions),
        )

    def micro_batches(
        self, samples: NDArray[np.int64], *, rank: int, world_size: int, shares: NDArray[np.int64] | None = None
    ) -> list[NDArray[np.int64]]:
        """One rank's micro-batches of a global batch: as many on each rank, and some may be empty.

        Args:
            shares: how many samples each rank gets; None: all as many. Samples with a token budget are dealt by it alone.

        Returns:
            Places in `samples`, which may have a sample twice; over all ranks each place once.
        """
        places = np.arange(len(samples))
        if self.budget is None:
            size = self.micro_batch_size
            return deal.micro_batches(places, rank=rank, world_size=world_size, micro_batch_size=size, shares=shares)
        widths = self._widths(self.lengths(samples))
        return buckets.micro_batches(widths, rank=rank, world_size=world_size, budget=self.budget)

    def _widths(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of rows, as they are padded."""
        return np.clip(-(-lengths // MULTIPLE) * MULTIPLE, MULTIPLE, self.length)

    def _predicted(self, pieces: Pieces) -> NDArray[np.int64]:
        """Tokens that are predicted in each piece."""
        if self.store.targets is None:
            return pieces.lengths
        places = zip(pieces.starts.tolist(), pieces.lengths.tolist(), strict=True)
        return np.array(
            [self.store.targets[start + 1 : start + length + 1].sum() for start, length in places], np.int64
        )

    def _pieces(self, samples: NDArray[np.int64]) -> Pieces:
        return self.cut.pieces(self._places(samples))

    def _places(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where samples are in the cut.

        Place p is held out if (p + 1) * validation // total is more than p * validation // total. Both kinds have a
        closed form, so there is no list of them.
        """
        if samples.size and (samples.min() < 0 or samples.max() >= self.training + self.validation):
            raise IndexError(f"samples {samples.min()}..{samples.max()} are not all there")
        places = samples + samples * self.validation // self.training
        if (held_out := samples >= self.training).any():
            order = Permutation(self.validation, f"{self.store.info.fingerprint}:validation")
            nth = order[samples[held_out] - self.training]
            total = self.training + self.validation
            places[held_out] = -(-(nth + 1) * total // self.validation) - 1
        return places


def of(config: RunConfig, store: TokenStore) -> Samples:
    """The samples that a run config asks for.

    Raises:
        DataError: the data is too short for a training and a validation sample.
    """
    training, batching = config.trainer.training, config.data.batching
    length, budget = training.sequence_length, None
    cut: Cut = Stream(store.info.tokens, length)
    if batching.mode == "Packed":
        cut = index.ensure(store, "packed", length)
    elif batching.mode == "Bucketed":
        cut = index.ensure(store, "documents", length)
        budget = batching.tokens_per_micro_batch or training.micro_batch_size * length
    elif batching.document_mask:
        cut = MaskedStream(Stream(store.info.tokens, length), store.documents)
    training_samples, validation = split(store, cut, length, config.data.validation_fraction)
    return Samples(store, cut, length, training.micro_batch_size, budget, training_samples, validation)


def split(store: TokenStore, cut: Cut, length: int, validation_fraction: float) -> tuple[int, int]:
    """How many samples are trained on, and how many are held out: at least one.

    Raises:
        DataError: there are too few, or too many.
    """
    if cut.count < 2:
        raise DataError(
            f"the data has {store.info.tokens} tokens in {store.info.documents} documents: too few for a training and a "
            f"validation sample of {length}; lower trainer.training.sequenceLength or add text"
        )
    validation = min(cut.count - 1, max(1, round(cut.count * validation_fraction)))
    if cut.count * validation >= 2**63:
        raise DataError(
            f"{validation:,} of {cut.count:,} samples are too many to hold out; lower data.validationFraction"
        )
    return cut.count - validation, validation


def _sums(values: NDArray[np.int64], rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return np.bincount(rows, weights=values, minlength=count).astype(np.int64)
