"""Which samples have been trained on: a record of about 400 bytes that is committed with the weights.

Step s owns the positions [s * G, (s + 1) * G) of an endless sequence of epochs, G being the global batch. A
position's epoch is position // samples, and each epoch has an order of its own, so a batch at the end of an
epoch flows into the next one: every batch is whole, every sample is used once an epoch, and the position stays
a pure function of the step. Going back to a checkpoint takes the ledger back with it; nothing else counts what
was consumed.

Other data, or another order of it, is refused, or begins a segment where it is allowed: positions and epochs are then
counted anew from the segment's first step, and what was trained before it stays on record.

`chain` is a receipt: sha256(previous chain, sorted samples of the batch). It is the same for every number of
ranks and every history of faults, because it depends on what was trained on alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from deepseek_trainer.config import RunConfig, ShuffleSpec
from deepseek_trainer.data.order import Order
from deepseek_trainer.errors import DataError

GENESIS = "0" * 64
_FIXED = {
    "fingerprint": "the data",
    "samples": "the number of training samples (data, trainer.training.sequenceLength or data.validationFraction)",
    "layout": "the cut into samples (trainer.training.sequenceLength, data.batching)",
    "seed": "trainer.training.seed",
    "global_batch": "trainer.training.globalBatchSize",
    "block_samples": "data.shuffle.blockSamples",
    "window_blocks": "data.shuffle.windowBlocks",
}
"""What must not change between two starts of one job, and how a user calls it."""
TRAINED_ON = ("mode", *_FIXED)
"""Of these, what a ledger has is kept of a segment that is over."""
SEGMENTS_MAX = 32
"""Segments that are over and remembered one by one; beyond it the two oldest become one."""
_HASH = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Ledger:
    """The data's side of a checkpoint. Counts are in samples and optimizer steps.

    Attributes:
        layout: how the store is cut into samples: sample i of another layout is another text.
        step: optimizer steps since the start of the job.
        from_step: the step with which the present segment began.
        segments: those before it, oldest first.
    """

    fingerprint: str
    samples: int
    layout: str
    seed: int
    global_batch: int
    block_samples: int = ShuffleSpec().block_samples
    window_blocks: int = ShuffleSpec().window_blocks
    step: int = 0
    chain: str = GENESIS
    from_step: int = 0
    segments: tuple[Segment, ...] = ()

    @classmethod
    def of(cls, config: RunConfig, *, fingerprint: str, samples: int, layout: str) -> Self:
        """The ledger with which a run of this config begins."""
        training, shuffle = config.trainer.training, config.data.shuffle
        return cls(
            fingerprint=fingerprint,
            samples=samples,
            layout=layout,
            seed=training.seed,
            global_batch=training.global_batch_size,
            block_samples=shuffle.block_samples,
            window_blocks=shuffle.window_blocks,
        )

    @property
    def position(self) -> int:
        """Samples consumed in this segment."""
        return (self.step - self.from_step) * self.global_batch

    @property
    def epoch(self) -> int:
        """Passes over this segment's data that are complete."""
        return self.position // self.samples

    def batch(self) -> Batch:
        """The samples of the next step, in the order in which they are dealt to the ranks."""
        return self.batches(1)[0]

    def batches(self, steps: int) -> list[Batch]:
        """Those of so many steps: at once they cost little more than those of one."""
        positions = np.arange(self.position, self.position + steps * self.global_batch, dtype=np.int64)
        epochs, offsets = np.divmod(positions, self.samples)
        samples = np.empty_like(positions)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            samples[chosen] = self.order(int(epoch))[offsets[chosen]]
        by_step = zip(np.split(samples, steps), np.split(epochs, steps), strict=True)
        return [Batch(samples=used, epochs=of) for used, of in by_step]

    def order(self, epoch: int) -> Order:
        key = f"{self.fingerprint}:{self.seed}:{epoch}"
        return Order(self.samples, key, self.block_samples, self.window_blocks)

    def advance(self, batch: Batch) -> Self:
        """The ledger after the optimizer step that used `batch`."""
        return replace(self, step=self.step + 1, chain=link(self.chain, batch, self.samples))

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "position": self.position, "epoch": self.epoch}

    def continued_from(self, saved: dict[str, Any], *, allow_change: bool = False) -> Self:
        """This run's ledger, taken forward to where a checkpoint's ledger was.

        Args:
            saved: `to_json()` of that ledger.
            allow_change: where the run asks for other data than the checkpoint's, whether a new segment begins.

        Raises:
            DataError: the checkpoint was trained on something else, and that isn't allowed; the message has the
                differences. Or its ledger can't be read.
        """
        return replace(self, **goes_on(saved, self.changes(saved), allow_change=allow_change))

    def changes(self, saved: dict[str, Any]) -> list[str]:
        """How the data that a checkpoint was trained on differs from this run's, in the user's words."""
        return differences(asdict(self), saved, _FIXED)


@dataclass(frozen=True)
class Segment:
    """A stretch of steps that were trained on the same data in the same order, and is over.

    Attributes:
        trained_on: what is fixed in a ledger, by field; empty where it stands for several.
        from_step: the step before its first one.
        to_step: its last step.
        position: samples consumed in it.
        chain: after its last step.
    """

    trained_on: dict[str, Any]
    from_step: int
    to_step: int
    position: int
    chain: str


def differences(mine: Mapping[str, Any], saved: Mapping[str, Any], fixed: Mapping[str, str]) -> list[str]:
    """How a checkpoint's ledger differs in what is fixed (by field: how a user calls it); of two modes, only that."""
    modes = [str(ledger.get("mode", "Deterministic")) for ledger in (saved, mine)]
    if modes[0] != modes[1]:
        return [f"data.mode was {modes[0]}, now {modes[1]}"]
    return [
        f"{name} was {_short(saved.get(field))}, now {_short(mine[field])}"
        for field, name in fixed.items()
        if saved.get(field) != mine[field]
    ]


def goes_on(saved: Mapping[str, Any], changes: Sequence[str], *, allow_change: bool) -> dict[str, Any]:
    """What a ledger takes over from a checkpoint's, whatever its mode: step, chain, from_step and segments.

    Args:
        changes: how the data differs; if it does, a segment begins.

    Raises:
        DataError: it does, and that isn't allowed; or the checkpoint's can't be read.
    """
    if changes and not allow_change:
        raise DataError(
            "the run config asks for other data than the checkpoint was trained on: "
            + "; ".join(changes)
            + "; put it back as it was, set data.allowChange: true to go on with the new data from its beginning, "
            "or start over in an empty checkpoint folder"
        )
    try:
        step, chain, from_step = int(saved["step"]), str(saved["chain"]), int(saved["from_step"])
        segments = tuple(Segment(**segment) for segment in saved["segments"])
        if changes and step > from_step:
            trained_on = {field: saved[field] for field in TRAINED_ON if field in saved}
            segments = _bounded((*segments, Segment(trained_on, from_step, step, int(saved["position"]), chain)))
    except (KeyError, TypeError, ValueError) as error:
        raise unreadable(error) from error
    return {"step": step, "chain": chain, "from_step": step if changes else from_step, "segments": segments}


def unreadable(error: Exception) -> DataError:
    """The error of a checkpoint's ledger that lacks something."""
    return DataError(
        f"the ledger of the checkpoint can't be read ({error!r}): another version of the trainer wrote it; use "
        "that version, or start over in an empty checkpoint folder"
    )


def _bounded(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    if len(segments) <= SEGMENTS_MAX:
        return segments
    first, second, *others = segments
    one = Segment({}, first.from_step, second.to_step, first.position + second.position, second.chain)
    return (one, *others)


@dataclass(frozen=True)
class Batch:
    """A global batch.

    Attributes:
        samples: int64, shape (global_batch,); index of the training sample.
        epochs: int64, shape (global_batch,); the epoch that each belongs to.
    """

    samples: NDArray[np.int64]
    epochs: NDArray[np.int64]


def link(chain: str, batch: Batch, samples: int) -> str:
    """The chain after a step that used `batch`, samples being those of an epoch."""
    used = np.sort(batch.epochs * samples + batch.samples)
    return hashlib.sha256(bytes.fromhex(chain) + used.astype(">i8").tobytes()).hexdigest()


def _short(value: object) -> str:
    """A hash by its first 12 digits, everything else as it is."""
    return value[:12] if isinstance(value, str) and _HASH.fullmatch(value) else str(value)
