"""The steps of this pod's ranks, as their pulses tell: the last one of each, and windows of those that were measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from deepseek_trainer.agent.stragglers import Figure
from deepseek_trainer.pulse import Pulse, read

LEAST_STEPS = 3
"""In a window, of each rank."""
MOST_STEPS = 256


class StepTimes:
    """The ranks of one start of the training processes."""

    def __init__(self, files: Mapping[int, Path]) -> None:
        """Args: files: the file of each global rank's pulse."""
        self._files = files
        self._last: dict[int, Pulse] = {}
        self._measured: dict[int, list[Figure]] = {rank: [] for rank in files}

    def look(self) -> dict[int, Pulse]:
        """Reads the pulses; the last one of each rank that has made a step. What lies between two looks is not seen."""
        for rank, file in self._files.items():
            pulse = read(file)
            if pulse is None or pulse.step < 0 or pulse.moment == self._moment(rank):
                continue
            self._last[rank] = pulse
            figure = Figure(pulse.busy_s, pulse.step_s)
            if all(map(math.isfinite, figure)) and len(self._measured[rank]) < MOST_STEPS:
                self._measured[rank].append(figure)
        return dict(self._last)

    def window(self) -> dict[int, Figure]:
        """Means of the measured steps since the last window; empty until there are enough of every rank.

        Means, because a rank that is stopped for a moment now and then has few slow steps, and all wait for those.
        """
        if not self._measured or any(len(steps) < LEAST_STEPS for steps in self._measured.values()):
            return {}
        measured, self._measured = self._measured, {rank: [] for rank in self._files}
        return {
            rank: Figure(fmean(step.busy_s for step in steps), fmean(step.step_s for step in steps))
            for rank, steps in measured.items()
        }

    def _moment(self, rank: int) -> float:
        return self._last[rank].moment if rank in self._last else math.nan
