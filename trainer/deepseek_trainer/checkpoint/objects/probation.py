"""Starts that failed soon after they went on from a checkpoint, as objects beside its parts; see `checkpoint.probation`."""

from __future__ import annotations

import json
import logging

from deepseek_trainer.checkpoint import probation
from deepseek_trainer.checkpoint.layout import Manifest
from deepseek_trainer.checkpoint.objects.layout import FAILED, MANIFEST, Save, View
from deepseek_trainer.checkpoint.objects.manifests import Manifests
from deepseek_trainer.checkpoint.objects.store import Store, look
from deepseek_trainer.errors import UnavailableError

log = logging.getLogger(__name__)


def is_bad(view: View, save: Save) -> bool:
    """Whether so many starts failed that it is passed over."""
    return len(_keys(view, save)) >= probation.STARTS


def verdict(store: Store, view: View, save: Save) -> str | None:
    """Why a checkpoint is marked bad; None: it isn't."""
    if not is_bad(view, save):
        return None
    said = (probation.parsed(store.read(key)) for key in _keys(view, save))
    return probation.judged([failure for failure in said if failure is not None])


def trust(store: Store, view: View, save: Save) -> None:
    """Forgets what was recorded about a checkpoint."""
    store.delete(_keys(view, save))


def record(store: Store, manifests: Manifests, save: Save, start: str, step: int, error: Exception) -> None:
    """Records that a start failed at this step, if that is soon after the checkpoint, and none of its own is newer."""
    try:
        view = look(store)
        own = (manifests.of(later) for later in view.saves() if later.step > save.step and view.has(later, MANIFEST))
        if step - save.step > probation.STEPS or any(isinstance(m, Manifest) and m.start == start for m in own):
            return
        said = json.dumps(probation.described(start, step, error))
        store.put(save.key(f"{FAILED}{start}.json"), said.encode())  # all ranks say the same
        log.error("failed soon after checkpoint=%s", save.name)
    except UnavailableError as problem:
        log.warning("checkpoint=%s: this failure can't be recorded: %s", save.name, problem)


def _keys(view: View, save: Save) -> list[str]:
    return [save.key(name) for name in view.of(save) if name.startswith(FAILED)]
