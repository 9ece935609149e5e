"""Pieces of work that a Ray node can do, and go wrong at."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Piece:
    """One file; `how` it is made: well, slowly, with an error, never, or by a process that dies."""

    number: int
    folder: str
    how: str = "well"

    @property
    def path(self) -> Path:
        return Path(self.folder) / f"{self.number}.txt"


def make(piece: Piece) -> None:
    if piece.how == "error":
        raise ValueError(f"{piece.number} can't be read")
    if piece.how == "slowly":
        time.sleep(1.0)
    if piece.how == "never":
        time.sleep(3600)
    if piece.how == "dies once" and not (died := piece.path.with_suffix(".died")).exists():
        died.touch()
        os._exit(9)
    written = piece.path.with_suffix(f".{os.getpid()}")
    written.write_text(str(piece.number))
    written.replace(piece.path)
