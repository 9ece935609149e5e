"""Saving into an object store. Each arrow may be the last thing done.

    upload shards, hashing them  ->  fence  ->  create manifest.json, if nothing is there  ->  retention

What a failed save has written is not deleted where its manifest may yet appear. Fencing: a start that sees a newer one on record doesn't create its manifest; one that looked before the newer one
was on record finds it void, or is counted (see `load`).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from deepseek_trainer.checkpoint.author import Author, Shown, Stopwatch, info
from deepseek_trainer.checkpoint.hashing import Copy, Described
from deepseek_trainer.checkpoint.layout import Manifest
from deepseek_trainer.checkpoint.objects import retention, starts, transfer, verify
from deepseek_trainer.checkpoint.objects.layout import DAMAGED, MANIFEST, VERIFIED, Save, save_named
from deepseek_trainer.checkpoint.objects.manifests import Manifests, encode
from deepseek_trainer.checkpoint.objects.store import Store, UndecidedError, look
from deepseek_trainer.contract import CheckpointInfo
from deepseek_trainer.errors import FencedError, UnavailableError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ObjectWriter(Author):
    """Who saves, and where.

    Attributes:
        number: of this start of training; see `starts`.
    """

    store: Store
    manifests: Manifests
    number: int = 0

    def _begin(self, step: int) -> Save:
        return Save(step, self.number, secrets.token_hex(4), self.store.url, self.store.endpoint)

    def _write_own(self, place: Save, state: dict[str, Any], copies: Callable[[], Copy] | None) -> Described:
        return transfer.write(state, self.store, place, self.world.control, copies=copies)

    def reread(self, path: str) -> str | None:
        """Reads a committed checkpoint once more, and marks it; what is wrong with it, "" for nothing, None: can't be told."""
        save = save_named(path.rpartition("/")[2], self.store.url, self.store.endpoint)
        try:
            manifest = self.manifests.of(save) if save is not None else None
            if save is None or not isinstance(manifest, Manifest):
                return None
            problem = verify.content(self.store, save, manifest.files)
            if problem and not look(self.store).has(save, MANIFEST):
                return None  # deleted meanwhile
            self.store.put(save.key(DAMAGED if problem else VERIFIED), f"{problem}\n".encode())
        except UnavailableError:
            return None
        return problem

    def _commit(
        self, place: Save, ledger: dict[str, Any], shown: Shown, files: Described, took: Stopwatch
    ) -> CheckpointInfo:
        view = look(self.store)
        if view.last_start() != self.number:
            last = starts.newest(self.store, view)
            raise FencedError(
                f"start {self.number} must not commit to {self.store.url}: start {last.number}, of generation "
                f"{last.generation}, trains there"
            )
        manifest = self.manifest(ledger, shown, files, took)
        if not self.store.create(place.key(MANIFEST), encode(manifest)):
            raise FencedError(f"{place}: a newer start has made it void")
        retention.apply(self.store, self.manifests, self, place)
        return info(str(place), manifest)

    def _undo(self, place: Save, error: UnavailableError) -> None:
        if not isinstance(error, UndecidedError):
            with suppress(UnavailableError):
                self.store.delete(map(place.key, look(self.store).of(place)))
