"""The memory of a process that computes on a CPU, kept between steps.

Each step frees what the last one took: activations and gradients. glibc gives large blocks back to the kernel, which
fills every page of them with zeros before the next step may have it. Here what was freed stays the process' own. What a
process takes stays what its largest step took, and what lies scattered between blocks of other sizes.

Large pages (torch's THP_MEM_ALLOC_ENABLE) are left to who wants them: with them the operations on a step's logits took three
to four times as long and zeroing twice, in steps of small models on a virtual machine, though not by themselves.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""glibc's names of options, without their M_ (malloc.h)."""


def keep() -> None:
    """To be called before the model has memory. A libc without these options is left as it is."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)
