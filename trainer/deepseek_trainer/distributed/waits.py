"""How long this rank waits for the others in a step; what is left of the step is its own work, and of what parts that is.

All ranks of a synchronous job take the same wall time for a step, so a slow one can't be told by it: the others wait
for it in the collectives, and it waits for nobody. On a CPU a collective blocks the host, and the wait is the time of
the call. On an accelerator it blocks neither the host nor, as long as it is hidden behind computation, the device;
there one step in `MEASURED_EVERY` is measured, and in that one the host waits for the device before and after each
collective. Such a step has no overlap and is the slower for it, which is why there are few. See
docs/design/0005-stragglers.md for what else was tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from deepseek_trainer.marks import mark
from deepseek_trainer.pulse import Part, PulseWriter

MEASURED_EVERY = 64
"""Steps on an accelerator; one that loses all of its overlap, a quarter of its time, costs 0.4 %."""


class Waits:
    """The waits of one process, told to its pulse. All ranks must count the same steps: they slow down together."""

    def __init__(self, pulse: PulseWriter, device: torch.device) -> None:
        self._pulse = pulse
        self._synchronize = torch.get_device_module(device).synchronize
        self._every = 1 if device.type == "cpu" else MEASURED_EVERY
        self._measures = False

    def begin(self, step: int) -> None:
        """The step with this number begins."""
        self._measures = step % self._every == 0

    @contextmanager
    def data(self) -> Iterator[None]:
        """Around each wait of the host for its data. On an accelerator that still computes it may hold up nothing."""
        with mark("data"), self._pulse.loading():
            yield

    @contextmanager
    def part(self, name: Part) -> Iterator[None]:
        """Around each part of a step. What of it waits for others, or for data, doesn't count as its time."""
        with mark(name):
            if not self._measures:
                yield
                return
            self._synchronize()
            with self._pulse.part(name):
                yield
                self._synchronize()

    @contextmanager
    def collective(self) -> Iterator[None]:
        """Around each collective of a step, on every rank."""
        if not self._measures:
            yield
            return
        self._synchronize()
        with self._pulse.waiting():
            yield
            self._synchronize()
