"""One event a line, as words and key=value, on standard output; rank 0 tells the story, any rank may warn."""

from __future__ import annotations

import logging
import sys
import warnings


def configure(rank: int) -> None:
    """Sets up logging for this process."""
    logging.basicConfig(
        stream=sys.stdout,
        level=logging.INFO if rank == 0 else logging.WARNING,
        format=f"%(asctime)s.%(msecs)03d %(levelname)s rank={rank} %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        force=True,
    )
    logging.captureWarnings(True)
    logging.getLogger("torch").setLevel(logging.WARNING)
    warnings.simplefilter("default")


def fields(**values: object) -> str:
    """Values as key=value; floats to six significant digits, what is None left out."""
    return " ".join(
        f"{key}={value:.6g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in values.items()
        if value is not None
    )
