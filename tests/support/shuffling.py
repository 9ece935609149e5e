"""How well an order mixes, in numbers that are 0 or 1 for a full shuffle, whatever the size of the data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Quality:
    """Attributes: what a full shuffle has is in brackets.

    rank_correlation: of position and sample (0, give or take 1 / sqrt(n)).
    displacement: mean distance of a sample from its own position, in that of a full shuffle, n / 3 (1).
    kept_neighbours: share of neighbouring positions with neighbouring samples, in either order (2 / n).
    batch_excess: variance of the batches' means, of a feature that is alike in stretches of the data and differs
        between them, in that of a full shuffle (1). 2 means that a batch says as much about the data as one of half
        its size would.
    """

    rank_correlation: float
    displacement: float
    kept_neighbours: float
    batch_excess: float


def quality(samples: NDArray[np.int64], *, batch: int, stretch: int) -> Quality:
    """The quality of an order.

    Args:
        samples: int64, shape (n,): the sample at each position; each of [0, n) once.
        batch: samples in a batch.
        stretch: neighbouring samples that have the feature in common.
    """
    n = len(samples)
    positions = np.arange(n)
    feature = np.random.default_rng(0).standard_normal(-(-n // stretch))[samples // stretch]
    batches = feature[: n - n % batch].reshape(-1, batch).mean(axis=1)
    return Quality(
        rank_correlation=float(np.corrcoef(positions, samples)[0, 1]),
        displacement=float(np.abs(samples - positions).mean() / (n / 3)),
        kept_neighbours=float((np.abs(np.diff(samples)) == 1).mean()),
        batch_excess=float(batches.var() / (feature.var() / batch)),
    )
