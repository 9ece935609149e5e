"""Which records count: those of the steps that the weights of a checkpoint contain.

A checkpoint names the start of training that made it, and each start the one that made the checkpoint that it went on
from. So the way back from a checkpoint to step 0 is a chain of starts, of each the steps between two checkpoints. What
else a start has trained was rolled back with its weights; a process of an old generation that writes on, even to the end
of its run, is on no such way, because it can't commit any more. Nothing here goes by the time of a record.

The checkpoint to judge is the newest one of the present weights: made by the start that has the folder now, or before it
and not passed over by it. One that a start has refused (a bit flipped in it) lies there until training has come past it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from deepseek_trainer import durable
from deepseek_trainer.checkpoint import layout, retention
from deepseek_trainer.checkpoint.layout import Manifest, Start


@dataclass(frozen=True)
class Part:
    """Steps `first` to `last`, trained by one start; None: by nobody knows whom."""

    first: int
    last: int
    start: Start | None


def lineage(starts: Iterable[Start], manifest: Manifest) -> list[Part]:
    """The starts that trained what a checkpoint contains, oldest first; together their steps are 1 to the checkpoint's."""
    named = {start.start: start for start in starts if start.start}
    found: list[Part] = []
    name, last = manifest.start, manifest.step
    while last > 0:
        start = named.pop(name, None)  # popped, so that damaged lines can't lead round in a circle
        if start is None or start.step > last:
            found.append(Part(1, last, None))
            break
        found.append(Part(start.step + 1, last, start))
        name, last = start.parent, start.step
    return found[::-1]


def newest(folder: Path) -> tuple[Path, Manifest] | None:
    """The newest whole checkpoint of the present weights; None: there is none."""
    present = _present(folder)
    for step, path in layout.checkpoints(folder):
        if not (retention.is_whole(path) and _as_committed(path)):
            continue
        manifest = layout.read_manifest(path)
        if present is None or step <= present.step or manifest.start == present.start:
            return path, manifest
    return None


def _present(folder: Path) -> Start | None:
    """The last start of the generation that may commit; None: nobody knows, as with an older trainer."""
    reign = layout.reign(folder)
    mine = [start for start in layout.starts(folder) if reign == layout.Reign(start.job, start.generation)]
    return mine[-1] if mine and mine[-1].start else None


def _as_committed(checkpoint: Path) -> bool:
    committed = (checkpoint / layout.COMMITTED).read_text(encoding="ascii", errors="replace").strip()
    return bool(durable.describe(checkpoint / layout.MANIFEST)["sha256"] == committed)
