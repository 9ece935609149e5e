"""How torch and transformers are imported: a quarter of what they cost is garbage collection that finds nothing."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Imports in this block are not collected meanwhile, nor looked at by any later collection.

    That spares a tenth of the CPU time of the imports, most of that of the interpreter's end (a second with
    transformers), and, in forks, copies of the pages that a collection would have written to.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
