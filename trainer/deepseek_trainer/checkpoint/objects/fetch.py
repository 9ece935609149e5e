"""A checkpoint brought from an object store into a folder as it would be on a volume: for what works on files."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path

from deepseek_trainer import durable
from deepseek_trainer.checkpoint import layout
from deepseek_trainer.checkpoint.layout import Manifest
from deepseek_trainer.checkpoint.objects.layout import MODEL, Save
from deepseek_trainer.checkpoint.objects.load import judge
from deepseek_trainer.checkpoint.objects.manifests import Manifests
from deepseek_trainer.checkpoint.objects.store import BLOCK, Store, look
from deepseek_trainer.errors import DataError

log = logging.getLogger(__name__)


def fetch(store: Store, folder: Path, step: int | None = None) -> None:
    """Makes the folder, with one checkpoint that is whole, and the model's architecture where the store has it.

    Args:
        step: of the checkpoint; None: the newest whole one.

    Raises:
        DataError: there is none.
        UnavailableError: the store refuses, or can't be reached.
    """
    view, manifests, refused = look(store), Manifests(store), []
    for save in view.saves():
        if step not in (None, save.step):
            continue
        judged = judge(store, manifests, view, save, trusting=step is not None)
        if judged is None:
            continue
        manifest, problem = judged
        if manifest is not None:
            problem = _fetched(store, save, manifest, layout.checkpoint_folder(folder, save.step))
        if not problem:
            if (config := store.read(MODEL)) is not None:
                (folder / MODEL).parent.mkdir(exist_ok=True)
                (folder / MODEL).write_bytes(config)
            return
        log.warning("skipping checkpoint=%s reason=%r", save.name, problem)
        refused.append(f"{save.name}: {problem}")
    wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
    raise DataError(
        f"{store.url} has {wanted} that is whole{': ' if refused else ''}{'; '.join(refused)}; take another one"
    )


def _fetched(store: Store, save: Save, manifest: Manifest, target: Path) -> str:
    """Brings all objects of a checkpoint; what is wrong with one of them, "" for nothing."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name, expected in manifest.files.items():
        try:
            with store.reading(save.key(name), expected["bytes"]) as stream, (target / name).open("wb") as file:
                shutil.copyfileobj(stream, file, BLOCK)
        except FileNotFoundError:
            return f"{name} is missing"
        if problem := durable.difference(target / name, expected):
            return problem
    said = json.dumps(manifest.to_json()).encode()
    (target / layout.MANIFEST).write_bytes(said)
    (target / layout.COMMITTED).write_text(hashlib.sha256(said).hexdigest())
    return ""
