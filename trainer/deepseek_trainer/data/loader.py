"""Micro-batches of the coming steps, made in a thread while the present step computes.

What was prefetched counts as nothing: what a step trains on is a function of its number alone, and a process that is
killed takes what it prefetched with it. A thread, as making a micro-batch is copying out of mapped files, which other
threads don't have to wait for; processes would have to hand over what they made.

Where there is a GPU they are in pinned memory, so that copying them to it is no wait either.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from deepseek_trainer.data.ledger import Batch
from deepseek_trainer.data.samples import MicroBatch, Samples

DEPTH = 256
"""Micro-batches that are made ahead. With fewer the two threads would take turns more often than they compute."""
AHEAD_BYTES = 64 * 2**20
"""What they take at most, if there are two of them and more."""
_STEPS_AT_ONCE = 16
_CLOSING_S = 10.0


@dataclass(frozen=True)
class Step:
    """One optimizer step's data.

    Attributes:
        number: steps that were made before it.
        batch: the global batch.
        micro_steps: how many micro-batches this rank gets, the same on all ranks.
        tokens: of the global batch, without padding.
        targets: tokens of the global batch that are predicted, but 1 if there are none; its loss is a mean over them.
    """

    number: int
    batch: Batch
    micro_steps: int
    tokens: int
    targets: int


class Part(NamedTuple):
    """One rank's micro-batch of a step.

    Attributes:
        places: int64: where its samples are in the global batch; none for a rank that has run out of them.
        micro_batch: on the device.
    """

    places: NDArray[np.int64]
    micro_batch: MicroBatch


class Loader:
    """One rank's data from a step on. Take a step, then its micro-batches, then the next step."""

    def __init__(  # noqa: PLR0913  all that a rank's data depends on
        self,
        data: Samples,
        batches: Callable[[int, int], Iterable[Batch]],
        *,
        first: int,
        last: int,
        rank: int,
        world_size: int,
        device: torch.device,
        depth: int | None = None,
        shares_of: Callable[[int], NDArray[np.int64] | None] = lambda step: None,
    ) -> None:
        """Starts to load.

        Args:
            batches: the global batches from a step on, by its number and how many are wanted.
            shares_of: how many of its samples each rank gets, by the step's number; None: all as many. It is asked for at
                most `depth` steps and one ahead of the last one that was taken.
            first, last: steps in [first, last) are loaded.
            depth: micro-batches that are made ahead; None: DEPTH, or what AHEAD_BYTES has room for.
        """
        self._data = data
        self._batches, self._shares_of = batches, shares_of
        self._steps = range(first, last)
        self._rank, self._world_size = rank, world_size
        self._device = device
        self._made: queue.SimpleQueue[Step | Part | BaseException] = queue.SimpleQueue()
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(depth or max(2, min(DEPTH, AHEAD_BYTES // data.micro_batch_bytes))):
            self._room.put(None)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="loader", daemon=True)
        self._thread.start()

    def step(self, number: int) -> Step:
        """The next step, which has to be the one with that number.

        Raises:
            Exception: whatever stopped the loading, from here on each time.
        """
        taken = self._take()
        if not isinstance(taken, Step) or taken.number != number:
            raise RuntimeError(f"step {number} is asked for, and what was loaded next is something else")
        return taken

    def micro_batch(self) -> Part:
        """The next micro-batch of the step.

        Raises:
            Exception: as above.
        """
        taken = self._take()
        if not isinstance(taken, Part):
            raise RuntimeError("the step has no more micro-batches")
        return Part(taken.places, taken.micro_batch.to(self._device))

    def close(self) -> None:
        """Stops loading and returns when the thread has ended."""
        self._closed.set()
        self._room.put(None)  # it may wait for that
        self._thread.join(_CLOSING_S)

    def _take(self) -> Step | Part:
        taken = self._made.get()
        if isinstance(taken, BaseException):
            self._made.put(taken)
            raise taken
        self._room.put(None)
        return taken

    def _give(self, made: Step | Part) -> None:
        self._room.get()
        self._made.put(made)

    def _run(self) -> None:
        try:
            if self._device.type == "cuda":
                torch.cuda.set_device(self._device)  # else pinning would begin a context on the first GPU
            number, wanted = self._steps.start, 1  # one, so that a start or a resume doesn't wait for more
            while number < self._steps.stop:
                for batch in self._batches(number, min(wanted, self._steps.stop - number)):
                    self._load(number, batch)
                    number += 1
                    if self._closed.is_set():
                        return
                wanted = _STEPS_AT_ONCE
            self._made.put(RuntimeError("there are no more steps to load"))
        except BaseException as error:  # the loop has to hear of it, whatever it is
            self._made.put(error)

    def _load(self, number: int, batch: Batch) -> None:
        mine = self._data.micro_batches(
            batch.samples, rank=self._rank, world_size=self._world_size, shares=self._shares_of(number)
        )
        tokens, targets = self._data.totals(batch.samples)
        self._give(Step(number, batch, len(mine), tokens, max(1, targets)))
        for places in mine:
            if self._closed.is_set():
                return
            made = self._data.collate(batch.samples[places])
            self._give(Part(places, made.pinned() if self._device.type == "cuda" else made))
