"""Where a token store is cut: which tokens are one sample.

A sample is a row of one or more pieces. A piece is a run of tokens that are predicted from one another and from nothing
else: its inputs are tokens [start, start + length), and what is to be predicted the same, shifted by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Pieces(NamedTuple):
    """The pieces of some samples, row after row.

    Attributes:
        starts: int64, shape (pieces,): the first token of each, in the store.
        lengths: int64, shape (pieces,), at least 1: number of its inputs.
        rows: int64, shape (pieces,), rising: which of the samples that were asked for it belongs to.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    rows: NDArray[np.int64]


class Cut(Protocol):
    """One way of cutting a store."""

    @property
    def layout(self) -> str:
        """What it depends on beside the store: equal where sample i is the same tokens."""

    @property
    def count(self) -> int:
        """Number of samples."""

    def pieces(self, samples: NDArray[np.int64]) -> Pieces:
        """The pieces of samples in [0, count)."""


@dataclass(frozen=True)
class Stream:
    """Windows of `length` tokens over all documents, one after the other as if they were one; the last is the rest.

    Each token but the store's first is predicted exactly once.
    """

    tokens: int
    length: int

    @property
    def layout(self) -> str:
        return f"stream:{self.length}"

    @property
    def count(self) -> int:
        return -(-max(0, self.tokens - 1) // self.length)

    def pieces(self, samples: NDArray[np.int64]) -> Pieces:
        starts = samples * self.length
        lengths = np.minimum(self.length, self.tokens - 1 - starts)
        return Pieces(starts, lengths, np.arange(len(samples), dtype=np.int64))


@dataclass(frozen=True)
class MaskedStream:
    """The same windows, each cut where a document ends: its end predicts nothing, and nobody sees beyond it.

    Each token but the first of a document is predicted exactly once.

    Attributes:
        documents: int64, shape (documents + 1,): where each starts, and the end.
    """

    stream: Stream
    documents: NDArray[np.int64]

    @property
    def layout(self) -> str:
        return f"{self.stream.layout}:masked"

    @property
    def count(self) -> int:
        return self.stream.count

    def pieces(self, samples: NDArray[np.int64]) -> Pieces:
        windows = self.stream.pieces(samples)
        ends = windows.starts + windows.lengths
        first = np.searchsorted(self.documents, windows.starts, side="right") - 1
        counts = np.searchsorted(self.documents, ends, side="left") - first
        rows = np.repeat(windows.rows, counts)
        number = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(len(rows))
        starts = np.maximum(self.documents[number], windows.starts[rows])
        lengths = np.minimum(self.documents[number + 1] - 1, ends[rows]) - starts
        some = lengths > 0
        return Pieces(starts[some], lengths[some], rows[some])
