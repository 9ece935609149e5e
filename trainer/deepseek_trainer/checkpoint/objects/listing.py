"""The checkpoints of a job's part of an object store, as `dsj checkpoints` shows them. Needs no torch."""

from __future__ import annotations

from typing import Any

from deepseek_trainer.checkpoint import listing
from deepseek_trainer.checkpoint.objects import probation, verify
from deepseek_trainer.checkpoint.objects.layout import DAMAGED, MANIFEST, VERIFIED, Save, View
from deepseek_trainer.checkpoint.objects.manifests import Manifests, Void
from deepseek_trainer.checkpoint.objects.store import Store, look
from deepseek_trainer.checkpoint.verify import UNCOMMITTED
from deepseek_trainer.errors import DataError, UnavailableError


def checkpoints(store: Store, *, content: bool = False) -> list[dict[str, Any]]:
    """As `checkpoint.listing.checkpoints`; saves that were made void are left out.

    Raises:
        DataError: nothing is there.
        UnavailableError: the store refuses, or can't be reached.
    """
    view, manifests = look(store), Manifests(store)
    if not view.keys:
        raise DataError(f"{store.url} has no object; give the job's part of the store")
    rows = (_row(store, view, manifests, save, content) for save in view.saves())
    return [row for row in rows if row is not None]


def trust(store: Store, step: int) -> None:
    """Has a checkpoint count again that was marked bad.

    Raises:
        DataError: there is no such checkpoint.
        UnavailableError: the store doesn't let it.
    """
    view = look(store)
    saves = [save for save in view.saves() if save.step == step]
    if not saves:
        raise DataError(f"{store.url} has no checkpoint of step {step}")
    for save in saves:
        probation.trust(store, view, save)


def _row(store: Store, view: View, manifests: Manifests, save: Save, content: bool) -> dict[str, Any] | None:
    row: dict[str, Any] = {"step": save.step, "state": "whole", "problem": None}
    if not view.has(save, MANIFEST):
        return row | {"state": "uncommitted", "problem": UNCOMMITTED}
    try:
        manifest = manifests.of(save)
        if isinstance(manifest, Void):
            return None
        problem = manifest if isinstance(manifest, str) else verify.sizes(view, save, manifest)
        if (
            isinstance(manifest, str)
            or problem
            or (content and (problem := verify.content(store, save, manifest.files)))
        ):
            return row | {"state": "damaged", "problem": problem[: listing.ROOM]}
        if bad := probation.verdict(store, view, save):
            row |= {"state": "bad", "problem": bad[: listing.ROOM]}
    except UnavailableError as error:
        return row | {"state": "unreadable", "problem": str(error)[: listing.ROOM]}
    verified = content or (view.has(save, VERIFIED) and not view.has(save, DAMAGED))
    return row | listing.facts(manifest, verified=verified)
