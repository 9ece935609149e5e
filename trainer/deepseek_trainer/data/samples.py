"""The samples of a token store: which are trained on and which are held out, and micro-batches of them.

Samples [0, training) are trained on, [training, training + validation) are held out. Held out is each k-th sample of the
store, for any run and seed: so neighbours in the store stay neighbours in the numbering, and a reader of neighbouring
samples reads neighbouring bytes. The held-out ones are numbered in a fixed order of their own, so that the first few of
them are of all parts of the data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from deepseek_trainer.config import RunConfig
from deepseek_trainer.data.cuts import Cut, Pieces, Stream
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

    def to(self, device: torch.device) -> MicroBatch:
        """On that device; without a wait when it is pinned."""
        positions = None if self.positions is None else self.positions.to(device, non_blocking=True)
        return MicroBatch(
            self.inputs.to(device, non_blocking=True), self.labels.to(device, non_blocking=True), positions
        )


@dataclass(frozen=True)
class Samples:
    """All samples of one store.

    Attributes:
        length: the most tokens in a row, L.
        training: number of training samples.
        validation: number of held-out samples.
    """

    store: TokenStore
    cut: Cut
    length: int
    training: int
    validation: int

    @property
    def layout(self) -> str:
        """How the store is cut into samples."""
        return self.cut.layout

    def lengths(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens in the row of each sample, without padding; int64, shape (len(samples),)."""
        pieces = self._pieces(samples)
        return _sums(pieces.lengths, pieces.rows, len(samples))

    def targets(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens that are predicted in each sample; int64, shape (len(samples),)."""
        return self.lengths(samples)

    def collate(self, samples: NDArray[np.int64]) -> MicroBatch:
        """One row a sample, padded to the longest one's tokens rounded up to a multiple of eight, L at most."""
        pieces = self._pieces(samples)
        sizes = _sums(pieces.lengths, pieces.rows, len(samples))
        longest = max(1, int(sizes.max()))
        shape = (len(samples), min(self.length, -(-longest // MULTIPLE) * MULTIPLE))
        inputs, labels = np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64)
        positions = np.zeros(shape, np.int64) if len(pieces.rows) > len(samples) else None
        counting = np.arange(shape[1])
        columns = np.cumsum(pieces.lengths) - pieces.lengths - (np.cumsum(sizes) - sizes)[pieces.rows]
        for start, length, row, column in zip(*(values.tolist() for values in (*pieces, columns)), strict=True):
            tokens = self.store.tokens[start : start + length + 1]
            inputs[row, column : column + length] = tokens[:-1]
            labels[row, column : column + length] = tokens[1:]
            if positions is not None:
                positions[row, column : column + length] = counting[:length]
        return MicroBatch(
            torch.from_numpy(inputs),
            torch.from_numpy(labels),
            None if positions is None else torch.from_numpy(positions),
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
    length = config.trainer.training.sequence_length
    return split(store, Stream(store.info.tokens, length), length, config.data.validation_fraction)


def split(store: TokenStore, cut: Cut, length: int, validation_fraction: float) -> Samples:
    """Holds out a share of the samples, at least one."""
    if cut.count < 2:
        raise DataError(
            f"the data has {store.info.tokens} tokens: too few for a training and a validation sample of {length}; "
            "lower trainer.training.sequenceLength or add text"
        )
    validation = min(cut.count - 1, max(1, round(cut.count * validation_fraction)))
    if cut.count * validation >= 2**63:
        raise DataError(
            f"{validation:,} of {cut.count:,} samples are too many to hold out; lower data.validationFraction"
        )
    return Samples(store, cut, length, cut.count - validation, validation)


def _sums(values: NDArray[np.int64], rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return np.bincount(rows, weights=values, minlength=count).astype(np.int64)
