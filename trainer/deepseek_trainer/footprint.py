"""How much memory a training process takes: on the host what is resident, on a GPU the peaks of torch's allocator."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

_STATM = Path("/proc/self/statm")


class Footprint(NamedTuple):
    """Bytes; NaN where there is no such memory."""

    resident: float
    allocated: float
    """The most that tensors had since the process began."""
    reserved: float
    """The most that torch's allocator held for them."""


class Scale:
    """Looks at it, at most once in `every_s`: torch takes longer to count its blocks than a small step takes."""

    def __init__(
        self, device: torch.device, *, every_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._device, self._every_s, self._clock = device, every_s, clock
        self._looked_at = -math.inf
        self._last = Footprint(math.nan, math.nan, math.nan)

    def look(self) -> Footprint:
        now = self._clock()
        if now - self._looked_at >= self._every_s:
            self._looked_at, self._last = now, _footprint(self._device)
        return self._last


def _footprint(device: torch.device) -> Footprint:
    resident = int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE") if _STATM.exists() else math.nan
    if device.type != "cuda":
        return Footprint(resident, math.nan, math.nan)
    return Footprint(resident, torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device))
