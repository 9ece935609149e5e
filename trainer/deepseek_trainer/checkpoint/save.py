"""Saving: a checkpoint is either committed and whole, or it does not count. Each arrow may be the last thing done.

    write and hash shards into step-N.gG.tmp  ->  fence  ->  manifest  ->  rename  ->  COMMITTED  ->  retention

Fencing: once training has started in a newer generation, or in a newer job of the same name, this one no longer
commits. Any thread may save, on a group of its own (`World.apart`); when that happens, `saver` decides.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_trainer import durable
from deepseek_trainer.checkpoint import dcp, layout, retention, verifier
from deepseek_trainer.checkpoint.author import Author, Shown, Stopwatch, info
from deepseek_trainer.checkpoint.hashing import Copy, Described
from deepseek_trainer.contract import CheckpointInfo
from deepseek_trainer.errors import FencedError, UnavailableError


@dataclass(frozen=True)
class Writer(Author):
    """Who saves, and where.

    Attributes:
        folder: the job's checkpoint folder, the same volume on every rank.
    """

    folder: Path

    def _begin(self, step: int) -> Path:
        temporary = layout.temporary_folder(self.folder, step, self.generation)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        return temporary

    def _write_own(self, place: Path, state: dict[str, Any], copies: Callable[[], Copy] | None) -> Described:
        return dcp.write(state, place, self.world.control, copies=copies)

    def _commit(
        self, place: Path, ledger: dict[str, Any], shown: Shown, files: Described, took: Stopwatch
    ) -> CheckpointInfo:
        self._fence()
        manifest = self.manifest(ledger, shown, files, took)
        durable.write_json(place / layout.MANIFEST, manifest.to_json())
        durable.write_bytes(place / layout.MARK, durable.describe(place / layout.MANIFEST)["sha256"].encode())
        durable.sync_folder(place)
        checkpoint = layout.checkpoint_folder(self.folder, manifest.step)
        with self._making_room(checkpoint, manifest.step):
            durable.rename(place, checkpoint)
            durable.rename(checkpoint / layout.MARK, checkpoint / layout.COMMITTED)
        retention.apply(
            self.folder,
            generation=self.generation,
            newest=manifest.step,
            **self.rules(),
        )
        return info(checkpoint, manifest)

    def _undo(self, place: Path, error: UnavailableError) -> None:
        shutil.rmtree(place, ignore_errors=True)

    def reread(self, path: str) -> str | None:
        """See `verifier.reread`."""
        return verifier.reread(Path(path))

    @contextmanager
    def _making_room(self, checkpoint: Path, step: int) -> Iterator[None]:
        """What has the name is one that was refused at the start, and training has come past it again: it goes.

        Or a newer generation has just come to it, and this one is too late: then it comes back.
        """
        if not checkpoint.exists():
            yield
            return
        aside = layout.temporary_folder(self.folder, step, self.generation, "replaced")
        shutil.rmtree(aside, ignore_errors=True)
        durable.rename(checkpoint, aside)
        try:
            yield
        except OSError:
            if not checkpoint.exists():
                durable.rename(aside, checkpoint)
            raise
        shutil.rmtree(aside)

    def _fence(self) -> None:
        reign = layout.reign(self.folder)
        if reign is None or (reign.job == self.uid and reign.generation <= self.generation):
            return
        other = f" of another job (UID {reign.job})" if reign.job != self.uid else ""
        raise FencedError(
            f"generation {self.generation} must not commit to {self.folder}: generation {reign.generation}{other} "
            "trains there"
        )
