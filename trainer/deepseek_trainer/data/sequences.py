"""A token store cut into sequences, some of them held out for validation.

Sequence i is tokens [i * L, (i + 1) * L] with L = sequence length: L inputs, and the same shifted by one as
targets, so each token but the first is predicted exactly once. Which sequences are held out is a fixed
permutation's choice, spread over the whole corpus and independent of the run's seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from deepseek_trainer.data.order import Order
from deepseek_trainer.data.store import TokenStore
from deepseek_trainer.errors import DataError


@dataclass(frozen=True)
class Sequences:
    """Training and held-out sequences of one store.

    Attributes:
        length: tokens in a sequence, L.
        training: number of training samples.
        validation: number of held-out samples.
    """

    store: TokenStore
    length: int
    training: int
    validation: int

    def training_tokens(self, samples: NDArray[np.int64]) -> torch.Tensor:
        """int64, shape (len(samples), L + 1); samples are in [0, training)."""
        return self._tokens(samples + self.validation)

    def validation_tokens(self, samples: NDArray[np.int64]) -> torch.Tensor:
        """int64, shape (len(samples), L + 1); samples are in [0, validation)."""
        return self._tokens(samples)

    def _tokens(self, places: NDArray[np.int64]) -> torch.Tensor:
        chosen = Order(self.training + self.validation, f"{self.store.info.fingerprint}:validation")[places]
        window = np.arange(self.length + 1)
        return torch.from_numpy(self.store.tokens[chosen[:, None] * self.length + window].astype(np.int64))


def split(store: TokenStore, *, length: int, validation_fraction: float) -> Sequences:
    """Cuts a store into sequences; at least one is held out.

    Raises:
        DataError: the data is too short for a training and a validation sequence.
    """
    total = (store.info.tokens - 1) // length
    if total < 2:
        raise DataError(
            f"the data has {store.info.tokens} tokens: too few for a training and a validation sequence of {length}; "
            "lower trainer.training.sequenceLength or add text"
        )
    validation = min(total - 1, max(1, round(total * validation_fraction)))
    return Sequences(store, length, total - validation, validation)
