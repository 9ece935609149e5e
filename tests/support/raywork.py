"""Pieces of work that a Ray node can do, and go wrong at; and shards that it tokenises as slowly as a test can watch."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from deepseek_trainer.data import parts

SHARD_S = 0.2
"""However late a test is by seconds, a few dozen more shards are tokenised until then, and not all that are looked for."""


@dataclass(frozen=True)
class Piece:
    """One file; `how` it is made: well, slowly, once told to, with an error, never, or by a process that dies."""

    number: int
    folder: str
    how: str = "well"

    @property
    def path(self) -> Path:
        return Path(self.folder) / f"{self.number}.txt"

    @property
    def told(self) -> Path:
        """Made by whoever tells all pieces of the folder."""
        return Path(self.folder) / "told"


def make(piece: Piece) -> None:
    if piece.how == "error":
        raise ValueError(f"{piece.number} can't be read")
    if piece.how == "slowly":
        time.sleep(1.0)
    while piece.how == "once told to" and not piece.told.exists():
        time.sleep(0.05)
    if piece.how == "never":
        time.sleep(3600)
    if piece.how == "dies once" and not (died := piece.path.with_suffix(".died")).exists():
        died.touch()
        os._exit(9)
    written = piece.path.with_suffix(f".{os.getpid()}")
    written.write_text(str(piece.number))
    written.replace(piece.path)


def make_shard(part: parts.Part) -> None:
    time.sleep(SHARD_S)
    parts.make(part)
