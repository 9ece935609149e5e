"""Who saves, and what a save is whatever the place: all ranks write, rank 0 commits, and all succeed or all fail.

What a failed save has written is deleted, as it may be what filled the disk. How a place keeps that a checkpoint counts
as a whole or not at all is its own: a folder's is `save`, an object store's `objects.save`.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from deepseek_trainer.checkpoint.hashing import Copy, Described
from deepseek_trainer.checkpoint.layout import Manifest
from deepseek_trainer.checkpoint.memory.tier import Memory
from deepseek_trainer.contract import CheckpointInfo
from deepseek_trainer.distributed.world import World
from deepseek_trainer.errors import UnavailableError

_VERSION = 1
_RECORDED_PACKAGES = ("deepseek-trainer", "torch", "transformers")


@dataclass(frozen=True)
class Shown:
    """What the manifest says beside what is saved: see its fields of these names."""

    tokens: int | None = None
    loss: float | None = None
    moving: bool = False


@dataclass(frozen=True)
class Stopwatch:
    """How long a save takes: since a time by `perf_counter`, and how much of it kept training from making steps."""

    began: float
    blocked_s: float | None

    def read(self) -> tuple[float, float]:
        """Seconds since it began, and of these the blocked ones."""
        seconds = time.perf_counter() - self.began
        return round(seconds, 3), round(seconds if self.blocked_s is None else self.blocked_s, 3)


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

    def save(
        self,
        state: dict[str, Any],
        ledger: dict[str, Any],
        shown: Shown | None = None,
        *,
        began: float | None = None,
        blocked_s: float | None = None,
    ) -> CheckpointInfo:
        """Commits the state of one step, each rank its part of it; what a failed save has written is deleted. A collective.

        Args:
            state: of `state.collect`.
            ledger: `Ledger.to_json()` of the same step.
            began: when the save began, by `time.perf_counter()`; None: now.
            blocked_s: seconds in which it kept training from making steps; None: all that it takes.

        Raises:
            FencedError: a newer generation trains there.
            UnavailableError: the volume is full, read-only or gone, or the store refuses.
        """
        took = Stopwatch(time.perf_counter() if began is None else began, blocked_s)
        place = self.world.lead(lambda: self._begin(ledger["step"]))
        try:
            files = self._write(place, state)
            saved = self.world.lead(lambda: self._commit(place, ledger, shown or Shown(), files, took))
        except UnavailableError as error:  # on all ranks
            if self.memory is not None:
                self.memory.failed()
            if self.world.leader:
                self._undo(place, error)
            raise
        if self.memory is not None:
            self.memory.committed(files)
        return saved

    def _write(self, place: Any, state: dict[str, Any]) -> Described:
        """Writes every rank's shards; what they are is hashed on the way."""
        copies = self.memory.copies if self.memory else None
        described = self.world.agree(lambda: self._write_own(place, state, copies), on=lambda world: True)
        return {name: entry for files in described for name, entry in (files or {}).items()}

    def rules(self) -> dict[str, Any]:
        """What retention keeps."""
        return {"keep": self.keep, "keep_s": self.keep_seconds, "keep_every_steps": self.keep_every_steps}

    def manifest(self, ledger: dict[str, Any], shown: Shown, files: Described, took: Stopwatch) -> Manifest:
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
            moving=shown.moving,
        )

    def _begin(self, step: int) -> Any:
        """The place of a checkpoint of that step that isn't committed yet; on rank 0."""
        raise NotImplementedError

    def _write_own(self, place: Any, state: dict[str, Any], copies: Callable[[], Copy] | None) -> Described:
        """Writes this rank's shards; what was written. A collective."""
        raise NotImplementedError

    def _commit(
        self, place: Any, ledger: dict[str, Any], shown: Shown, files: Described, took: Stopwatch
    ) -> CheckpointInfo:
        """Has what was written count; on rank 0."""
        raise NotImplementedError

    def _undo(self, place: Any, error: UnavailableError) -> None:
        """Deletes what was written, as far as that can be done; on rank 0."""
        raise NotImplementedError


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


@cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _RECORDED_PACKAGES}
