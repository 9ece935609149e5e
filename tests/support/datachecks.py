"""What must be true of a job's weights and ledger at any time, whatever has happened; see support.datajob for both.

The invariants that are named in messages:

    I1 exactly once   I2 one cut   I3 the same for every world   I4 bounded replay   I5 fencing   I6 no silent end
    I7 reading ahead is no progress   I8 uneven gradients   I9 nothing but the folder is needed   I10 torn checkpoints
    I11 the tail   I12 refusal   I13 nothing is lost at SIGTERM
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from deepseek_trainer.data.ledger import GENESIS, Ledger
from support.datajob import CONFIG, EPOCH, SAMPLE, SEGMENT, STEP, BrokenError, Weights


def must(true: object, message: str) -> None:
    if not true:
        raise BrokenError(message)


class Checks:
    """Of one job.

    Attributes:
        begun: with which each of its configs begins, by number; grows when one is added.
    """

    def __init__(self, first: Ledger) -> None:
        self.begun = [first]
        self._alone, self._chains = first, [GENESIS]

    def check(self, weights: Weights, ledger: Ledger) -> None:
        """Raises BrokenError if weights and ledger were not trained as they should have been."""
        steps = weights[:, STEP]
        must((np.diff(steps) >= 0).all(), "I2: steps out of order")
        must(ledger.step == (steps[-1] if len(steps) else 0), "I2: the ledger is at another step than the weights")
        begun = 0
        for rows in _groups(weights, SEGMENT):
            data, last = self.begun[int(rows[0, CONFIG])], int(rows[-1, STEP])
            must(len(rows) == (last - begun) * data.global_batch, "I1, I11: a batch is not whole")
            _exactly_once(rows, data.samples)
            begun = last
        if len(weights) and self.begun[int(weights[-1, CONFIG])].fingerprint == ledger.fingerprint:
            consumed = int((weights[:, SEGMENT] == weights[-1, SEGMENT]).sum()) if ledger.step > ledger.from_step else 0
            must(ledger.position == consumed, "I2: the position is not what was consumed")
            must(ledger.epoch == consumed // ledger.samples, "I2: the epoch is not what was consumed")
        must(ledger.chain == self._chain(weights), "I3: the chain is not that of what was trained on")
        if not weights[:, CONFIG].any():
            must(ledger.chain == self._undisturbed(ledger.step), "I3: other batches than undisturbed")

    def _chain(self, weights: Weights) -> str:
        """Computed here, not by the ledger."""
        chain = GENESIS
        for rows in _groups(weights, STEP):
            numbers = np.sort(rows[:, EPOCH] * self.begun[int(rows[0, CONFIG])].samples + rows[:, SAMPLE])
            chain = hashlib.sha256(bytes.fromhex(chain) + numbers.astype(">i8").tobytes()).hexdigest()
        return chain

    def _undisturbed(self, step: int) -> str:
        """The chain of the first config after so many steps without a fault, in one process."""
        while len(self._chains) <= step:
            self._alone = self._alone.advance(self._alone.batch())
            self._chains.append(self._alone.chain)
        return self._chains[step]


def _groups(weights: Weights, column: int) -> Sequence[Weights]:
    """The rows cut where the column changes."""
    groups: Sequence[Weights] = np.split(weights, np.flatnonzero(np.diff(weights[:, column])) + 1)
    return groups if len(weights) else []


def _exactly_once(rows: Weights, samples: int) -> None:
    """Of a segment's epochs: each complete one has all samples once, the last one has none twice."""
    must(rows[:, SAMPLE].min() >= 0 and rows[:, SAMPLE].max() < samples, "I1: no such sample")
    must(len(np.unique(rows[:, EPOCH] * samples + rows[:, SAMPLE])) == len(rows), "I1: a sample twice in an epoch")
    trained = np.bincount(rows[:, EPOCH])
    must((trained[:-1] == samples).all(), "I1, I6, I11: an epoch is over without all of its samples")
