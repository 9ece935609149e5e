"""Names for the parts of a step in a profiler's timeline: data, forward, backward, optimizer, checkpoint.

torch's profiler gets them while it records, Nsight Systems (NVTX) wherever there is a GPU: without a tool that listens
a mark is two calls that return at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.autograd.profiler import record_function


@contextmanager
def mark(name: str) -> Iterator[None]:
    """What is done in here has that name."""
    nvtx = torch.cuda.nvtx if torch.cuda.is_initialized() else None
    if nvtx is not None:
        nvtx.range_push(name)
    try:
        if torch.autograd._profiler_enabled():  # type: ignore[attr-defined]  # of this thread
            with record_function(name):
                yield
        else:
            yield
    finally:
        if nvtx is not None:
            nvtx.range_pop()
