"""Saving: a checkpoint is either committed and whole, or it does not count. Each arrow may be the last thing done.

    write and hash shards into step-N.gG.tmp  ->  fence  ->  manifest  ->  rename  ->  COMMITTED  ->  retention

All ranks take part, and all succeed or all fail; what a failed save has written is deleted, as it may be what filled the
disk. Fencing: once training has started in a newer generation, or in a newer job of the same name, this one no longer
commits. Any thread may save, on a group of its own (`World.apart`); when that happens, `saver` decides.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from deepseek_trainer import durable
from deepseek_trainer.checkpoint import dcp, layout, retention, verifier
from deepseek_trainer.checkpoint.layout import Manifest
from deepseek_trainer.checkpoint.memory.tier import Memory
from deepseek_trainer.contract import CheckpointInfo
from deepseek_trainer.distributed.world import World
from deepseek_trainer.errors import FencedError, UnavailableError

_VERSION = 1
_RECORDED_PACKAGES = ("deepseek-trainer", "torch", "transformers")


@dataclass(frozen=True)
class Shown:
    """What the manifest says for people: see `Manifest.tokens` and `Manifest.loss`."""

    tokens: int | None = None
    loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class Author:
    """Who saves: what the writers of both places are, a folder on a volume and a part of an object store.

    Attributes:
        uid: of the job; tells it from one of the same name that was deleted before.
        keep: checkpoints that retention leaves; beside those that `keep_seconds` and `keep_every_steps` name.
        model: recorded in the manifest; see `Manifest.model`.
        start: name of this start of training; recorded in the manifest.
        memory: keeps what is saved once more, in memory; None: nothing does.
    """

    job: str
    uid: str
    generation: int
    attempt: int
    keep: int
    model: dict[str, Any]
    world: World
    start: str = ""
    keep_seconds: int | None = None
    keep_every_steps: int | None = None
    memory: Memory | None = None

    def rules(self) -> dict[str, Any]:
        """What retention keeps."""
        return {"keep": self.keep, "keep_s": self.keep_seconds, "keep_every_steps": self.keep_every_steps}

    def manifest(
        self, ledger: dict[str, Any], shown: Shown, files: dict[str, dict[str, Any]], took: Stopwatch
    ) -> Manifest:
        """Of what was written.

        Args:
            files: see `Manifest.files`.
        """
        seconds, blocked_s = took.read()
        return Manifest(
            version=_VERSION,
            job=self.job,
            step=ledger["step"],
            generation=self.generation,
            attempt=self.attempt,
            world_size=self.world.size,
            ledger=ledger,
            model=self.model,
            files=files,
            versions=_versions(),
            seconds=seconds,
            blocked_seconds=blocked_s,
            time=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            start=self.start,
            tokens=shown.tokens,
            loss=shown.loss,
        )


@dataclass(frozen=True)
class Writer(Author):
    """Who saves, and where.

    Attributes:
        folder: the job's checkpoint folder, the same volume on every rank.
    """

    folder: Path

    def save(
        self,
        state: dict[str, Any],
        ledger: dict[str, Any],
        shown: Shown | None = None,
        *,
        began: float | None = None,
        blocked_s: float | None = None,
    ) -> CheckpointInfo:
        """Commits the state of one step. A collective.

        Args:
            state: of `state.collect`.
            ledger: `Ledger.to_json()` of the same step.
            began: when the save began, by `time.perf_counter()`; None: now.
            blocked_s: seconds in which it kept training from making steps; None: all that it takes.

        Raises:
            FencedError: a newer generation trains on this volume.
            UnavailableError: the volume is full, read-only or gone.
        """
        took = Stopwatch(time.perf_counter() if began is None else began, blocked_s)
        temporary = layout.temporary_folder(self.folder, ledger["step"], self.generation)
        try:
            self.world.lead(lambda: _make_empty(temporary))
            files = self._write(temporary, state)
            saved = self.world.lead(lambda: self._commit(temporary, ledger, shown or Shown(), files, took))
        except UnavailableError:  # on all ranks
            if self.memory is not None:
                self.memory.failed()
            if self.world.leader:
                shutil.rmtree(temporary, ignore_errors=True)
            raise
        if self.memory is not None:
            self.memory.committed(files)
        return saved

    def _write(self, temporary: Path, state: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Writes every rank's shards to the disk; what they are is hashed on the way."""
        copies = self.memory.copies if self.memory else None
        described = self.world.agree(
            lambda: dcp.write(state, temporary, self.world.control, copies=copies), on=lambda world: True
        )
        return {name: entry for files in described for name, entry in (files or {}).items()}

    def _commit(
        self,
        temporary: Path,
        ledger: dict[str, Any],
        shown: Shown,
        files: dict[str, dict[str, Any]],
        took: Stopwatch,
    ) -> CheckpointInfo:
        self._fence()
        manifest = self.manifest(ledger, shown, files, took)
        durable.write_json(temporary / layout.MANIFEST, manifest.to_json())
        durable.write_bytes(temporary / layout.MARK, durable.describe(temporary / layout.MANIFEST)["sha256"].encode())
        durable.sync_folder(temporary)
        checkpoint = layout.checkpoint_folder(self.folder, manifest.step)
        with self._making_room(checkpoint, manifest.step):
            durable.rename(temporary, checkpoint)
            durable.rename(checkpoint / layout.MARK, checkpoint / layout.COMMITTED)
        retention.apply(
            self.folder,
            generation=self.generation,
            newest=manifest.step,
            **self.rules(),
        )
        return info(checkpoint, manifest)

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


def info(checkpoint: Path | str, manifest: Manifest, *, verified: bool = False) -> CheckpointInfo:
    """A committed checkpoint as status reports it; verified: it was read again since."""
    return CheckpointInfo(
        step=manifest.step,
        time=manifest.time,
        path=str(checkpoint),
        bytes=manifest.bytes,
        seconds=manifest.seconds,
        blocked_seconds=manifest.blocked_seconds,
        verified=verified,
    )


@dataclass(frozen=True)
class Stopwatch:
    """How long a save takes: since a time by `perf_counter`, and how much of it kept training from making steps."""

    began: float
    blocked_s: float | None

    def read(self) -> tuple[float, float]:
        """Seconds since it began, and of these the blocked ones."""
        seconds = time.perf_counter() - self.began
        return round(seconds, 3), round(seconds if self.blocked_s is None else self.blocked_s, 3)


@cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _RECORDED_PACKAGES}


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
