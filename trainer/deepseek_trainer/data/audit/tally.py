"""How often each sample of each epoch was trained: exact counts, in one bit a sample of the epochs that are open.

An epoch of 10^9 samples takes 125 MB while it is open. It is open from its first sample until all of its samples were
trained, or until a step has samples only of epochs two later or more: so two are, as a rule, and three at most when
something is wrong with each.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

EXAMPLES = 10
"""Samples of each kind that are named; all are counted."""
_SCAN_BYTES = 1 << 20


@dataclass
class Epoch:
    """One pass over the data.

    Attributes:
        trained: different samples of it that were trained.
        lost: samples of it that were not, if it is over.
        repeated: times that a sample of it was trained again.
    """

    number: int
    trained: int = 0
    lost: int = 0
    repeated: int = 0


@dataclass
class Tally:
    """Counts the samples of a run, step after step.

    Attributes:
        samples: of one epoch; their ids are below it.
        last_epoch: the newest that any step can have reached.
        strange: ids and epochs that the data doesn't have.
        lost_examples: (epoch, sample).
        repeated_examples: (step of the second time, epoch, sample).
    """

    samples: int
    last_epoch: int
    epochs: dict[int, Epoch] = field(default_factory=dict)
    strange: int = 0
    lost_examples: list[tuple[int, int]] = field(default_factory=list)
    repeated_examples: list[tuple[int, int, int]] = field(default_factory=list)
    _open: dict[int, NDArray[np.uint8]] = field(default_factory=dict)

    def add(self, step: int, samples: NDArray[np.int64], epochs: NDArray[np.int64]) -> None:
        """Counts what all ranks together trained in a step: int64 arrays of one length."""
        known = (samples >= 0) & (samples < self.samples) & (epochs >= 0) & (epochs <= self.last_epoch)
        self.strange += int((~known).sum())
        one = known.all() and len(epochs) and (epochs == epochs[0]).all()  # of nearly every step
        numbers = [int(epochs[0])] if one else np.unique(epochs[known]).tolist()
        for number in numbers:
            self._count(step, number, samples if one else samples[known & (epochs == number)])
        for number in [number for number in self._open if numbers and number < numbers[0] - 1]:
            self._close(number)

    def finish(self, complete: int) -> None:
        """Ends the count; epochs below `complete` are over, one of which there is no record at all too."""
        for number in range(complete):
            if number not in self.epochs:
                self.epochs[number] = Epoch(number, lost=self.samples)
                self._give_examples(number, np.arange(min(EXAMPLES, self.samples)))
        for number in [number for number in self._open if number < complete]:
            self._close(number)

    def _count(self, step: int, number: int, samples: NDArray[np.int64]) -> None:
        epoch = self.epochs.get(number)
        if epoch is None:
            epoch = self.epochs[number] = Epoch(number)
            self._open[number] = np.zeros((self.samples + 7) // 8, np.uint8)
        ordered = np.sort(samples)
        first = np.ones(len(ordered), np.bool_)
        np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
        once, again = ordered[first], ordered[~first]
        seen = self._open.get(number)
        if seen is None:  # the epoch is over: whatever comes now is too much
            again, once = samples, once[:0]
        else:
            bits = np.uint8(1) << (once & 7).astype(np.uint8)
            before = (seen[once >> 3] & bits) != 0
            again, once, bits = np.concatenate([again, once[before]]), once[~before], bits[~before]
            np.bitwise_or.at(seen, once >> 3, bits)
        epoch.trained += len(once)
        epoch.repeated += len(again)
        room = EXAMPLES - len(self.repeated_examples)
        self.repeated_examples += [(step, number, sample) for sample in again[:room].tolist()]
        if epoch.trained == self.samples:
            self._open.pop(number, None)

    def _close(self, number: int) -> None:
        """An epoch is over: what was not trained of it is lost."""
        seen, epoch = self._open.pop(number), self.epochs[number]
        epoch.lost = self.samples - epoch.trained
        for start in range(0, len(seen), _SCAN_BYTES):
            if len(self.lost_examples) >= EXAMPLES:
                return
            bits = np.unpackbits(seen[start : start + _SCAN_BYTES], bitorder="little")
            unseen = np.flatnonzero(bits == 0) + start * 8
            self._give_examples(number, unseen[unseen < self.samples])

    def _give_examples(self, number: int, samples: NDArray[np.int64]) -> None:
        room = EXAMPLES - len(self.lost_examples)
        self.lost_examples += [(number, sample) for sample in samples[:room].tolist()]
