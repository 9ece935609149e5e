"""What is deleted from a job's part of an object store. The rules are those of a volume (`checkpoint.retention.doomed`).

A checkpoint's manifest goes first: whoever is killed then leaves objects that count for nothing, and the next start deletes
them. So it does with the saves that earlier ones have not finished, once it has made them void.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from deepseek_trainer.checkpoint import retention
from deepseek_trainer.checkpoint.author import Author
from deepseek_trainer.checkpoint.layout import Manifest
from deepseek_trainer.checkpoint.objects import verify
from deepseek_trainer.checkpoint.objects.layout import DAMAGED, MANIFEST, VERIFIED, Save, View
from deepseek_trainer.checkpoint.objects.manifests import Manifests, Void, encode
from deepseek_trainer.checkpoint.objects.probation import is_bad
from deepseek_trainer.checkpoint.objects.store import Store, look
from deepseek_trainer.checkpoint.retention import Known
from deepseek_trainer.errors import UnavailableError

log = logging.getLogger(__name__)

VOID_KEPT = timedelta(days=7)
"""How long the word that a save is void stays: longer than any process that is frozen."""


def apply(store: Store, manifests: Manifests, author: Author, saved: Save) -> None:
    """Deletes what nothing keeps, after a commit; a store that fails meanwhile leaves some for the next time."""
    try:
        view = look(store)
        if view.last_start() != saved.start:
            return  # a newer start looks after them
        saves = [save for save in view.saves() if save.step <= saved.step and view.has(save, MANIFEST)]
        committed = [save for save in saves if not isinstance(manifests.of(save), Void)]
        for place in retention.doomed([_known(view, manifests, save) for save in committed], **author.rules()):
            delete(store, view, committed[place])
    except UnavailableError as error:
        log.warning("old checkpoints were not deleted: %s", error)


def _known(view: View, manifests: Manifests, save: Save) -> Known:
    manifest = manifests.of(save)
    if not isinstance(manifest, Manifest):
        return Known(save.step)
    whole = not verify.sizes(view, save, manifest) and not view.has(save, DAMAGED) and not is_bad(view, save)
    return Known(save.step, good=whole, verified=view.has(save, VERIFIED), time=manifest.time)


def delete(store: Store, view: View, save: Save) -> None:
    """Deletes a checkpoint."""
    store.delete([save.key(MANIFEST)])
    store.delete(save.key(name) for name in view.of(save) if name != MANIFEST)


def clean(store: Store, manifests: Manifests, before: View, view: View, number: int) -> bool:
    """Makes void what earlier starts have not committed, and deletes it; whether one has committed meanwhile.

    Args:
        before: in which this start has looked for checkpoints.
        view: of a moment after this start, of that number, is on record: what isn't in it can't come to its fence any more.
    """
    new = [save for save in view.saves() if view.has(save, MANIFEST) and not before.has(save, MANIFEST)]
    overtaken = any(isinstance(manifests.of(save), Manifest) for save in new)
    now = datetime.now(UTC)
    for save in view.saves():
        if save.start >= number:
            continue
        if not view.has(save, MANIFEST):
            if not store.create(save.key(MANIFEST), encode(Void(number, now.isoformat(timespec="seconds")))):
                overtaken |= isinstance(manifests.of(save), Manifest)
                continue
            log.info("removing unfinished=%s", save.name)
        elif not isinstance(void := manifests.of(save), Void):
            continue
        elif now - datetime.fromisoformat(void.time) > VOID_KEPT:
            store.delete([save.key(MANIFEST)])
        store.delete(save.key(name) for name in view.of(save) if name != MANIFEST)
    return overtaken
