"""NCCL's flight recorder: torch keeps the last collectives of each rank in memory, and writes them when it is asked.

torch makes a named pipe for each rank; a byte in it has the rank's monitor thread write the record to a file, while the
rank itself hangs. gloo has no such pipe.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

BUFFER = ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE")
KEPT_COLLECTIVES = "2000"
PIPE = "TORCH_NCCL_DEBUG_INFO_PIPE_FILE"
DRIVER = Path("/dev/nvidiactl")
"""Where backend auto finds GPUs, and so takes NCCL."""
FILE = ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE")
"""The second is the name that older releases read."""


def environment(
    folder: Path, start: str, backend: str, environ: Mapping[str, str], driver: Path = DRIVER
) -> dict[str, str]:
    """What switches it on; nothing for gloo, or where the user has arranged for it."""
    has_nccl = backend == "nccl" or (backend == "auto" and driver.exists())
    if not has_nccl or PIPE in environ or any(name in environ for name in FILE):
        return {}
    kept = next((environ[name] for name in BUFFER if name in environ), KEPT_COLLECTIVES)
    return {BUFFER[0]: kept, PIPE: str(folder / f"flight-{start}-pipe-"), **dict.fromkeys(FILE, _stem(folder, start))}


def ask(folder: Path, start: str, rank: int) -> Path | None:
    """Asks that rank for its record; where it will be, or None when nobody listens."""
    pipe = folder / f"flight-{start}-pipe-{rank}.pipe"
    with contextlib.suppress(OSError):
        descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(descriptor, b"1")
        finally:
            os.close(descriptor)
        return Path(f"{_stem(folder, start)}{rank}")
    return None


def _stem(folder: Path, start: str) -> str:
    return str(folder / f"flight-{start}-rank-")
