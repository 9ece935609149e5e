"""The memory of a process that computes on a CPU: kept between steps, and in large pages.

Each step frees what the last one took: activations and gradients. glibc gives large blocks back to the kernel, which
fills every page of them with zeros before the next step may have it. Here what was freed stays the process' own,
and torch asks the kernel for pages of 2 MiB. What a process takes stays what its largest step took, and what lies
scattered between blocks of other sizes.
"""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""glibc's names of options, without their M_ (malloc.h)."""
_LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""Torch reads it before the first tensor of 2 MiB."""


def keep() -> None:
    """To be called before the model has memory. A libc without these options is left as it is."""
    os.environ.setdefault(_LARGE_PAGES, "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)
