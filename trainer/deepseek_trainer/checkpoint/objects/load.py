"""Loading from an object store: as on a volume, the newest checkpoint whose every byte is what was committed.

    look  ->  verify, newest first  ->  put this start on record  ->  make void what others have not committed

If one of them has committed before it could be made void, all is looked at again: so a checkpoint that was reported as
saved counts, and one that comes later is void. Every rank hashes its share of a checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from deepseek_trainer.checkpoint.layout import Manifest, Start
from deepseek_trainer.checkpoint.load import Found, new_start, none_whole
from deepseek_trainer.checkpoint.memory.tier import Memory
from deepseek_trainer.checkpoint.objects import probation, retention, starts, verify
from deepseek_trainer.checkpoint.objects.layout import MANIFEST, Save, View
from deepseek_trainer.checkpoint.objects.manifests import Manifests, Void
from deepseek_trainer.checkpoint.objects.save import ObjectWriter
from deepseek_trainer.checkpoint.objects.store import Store, look
from deepseek_trainer.checkpoint.verify import UNCOMMITTED
from deepseek_trainer.distributed.world import World
from deepseek_trainer.errors import DataError

log = logging.getLogger(__name__)
T = TypeVar("T")


def begin(
    writer: ObjectWriter, fits: Callable[[Found[Save]], None] = lambda found: None, *, audited: bool = False
) -> tuple[Found[Save] | None, Start, int]:
    """What training goes on from, this start, and its number: it is on record, and no older one commits. A collective.

    Args:
        fits: raises if training can't go on from what was found.

    Raises:
        FencedError: a newer start is on record.
        DataError: there are committed checkpoints, and all are damaged or bad.
        UnavailableError: the store refuses, or can't be reached.
    """
    world, store = writer.world, writer.store
    while True:
        view, last = world.lead(lambda: _look(writer))
        found = newest_whole(store, writer.manifests, view, world, writer.memory)
        if found is not None:
            world.lead(lambda: fits(found))  # noqa: B023  called at once
        start = world.lead(lambda: _start(writer, found, last, audited))  # noqa: B023
        number = world.lead(lambda: starts.record(store, last, start))  # noqa: B023
        if number is None:
            continue
        if not world.lead(lambda: retention.clean(store, writer.manifests, view, look(store), number)):  # noqa: B023
            return found, start, number


def newest_whole(
    store: Store, manifests: Manifests, view: View, world: World | None = None, memory: Memory | None = None
) -> Found[Save] | None:
    """The newest verified checkpoint that isn't marked bad; None when none was ever committed. A collective, with a world.

    Args:
        memory: of the nodes, with a world: what is there of a checkpoint is hashed there.

    Raises:
        DataError: there are committed checkpoints, and all are damaged or bad.
        UnavailableError: one can't be read, and nobody knows whether it is whole.
    """
    refused: list[str] = []
    for save in view.saves():
        judged = _lead(world, lambda: judge(store, manifests, view, save))  # noqa: B023  called at once
        if judged is None:
            continue
        manifest, problem = judged
        if manifest is not None:
            kept = memory.found(manifest.files, world) if memory is not None and world is not None else {}
            problem = _verified(store, save, {n: e for n, e in manifest.files.items() if n not in kept}, world)
            if not problem:
                return Found(save, manifest, tuple(refused), kept)
        if world is None or world.leader:
            log.warning("skipping checkpoint=%s reason=%r", save.name, problem)
        refused.append(f"{save.name}: {problem}")
    if refused:
        raise DataError(none_whole(store.url, refused))
    return None


def at_step(store: Store, manifests: Manifests, view: View, step: int) -> tuple[str, Found[Save] | None]:
    """What is wrong with the last checkpoint of a step, or the checkpoint, whose every byte was read."""
    problem = "there is none"
    for save in view.saves():
        if save.step != step or (judged := judge(store, manifests, view, save, trusting=True)) is None:
            continue
        manifest, problem = judged
        if manifest is not None and not (problem := _verified(store, save, manifest.files, None)):
            return "", Found(save, manifest)
        break
    return problem, None


def judge(
    store: Store, manifests: Manifests, view: View, save: Save, *, trusting: bool = False
) -> tuple[Manifest | None, str] | None:
    """A committed checkpoint's manifest, or what is wrong with it as far as names and sizes tell; None: it isn't committed.

    Args:
        trusting: whatever starts failed soon after it.
    """
    if not view.has(save, MANIFEST):
        log.warning("skipping checkpoint=%s reason=%r", save.name, UNCOMMITTED)
        return None
    manifest = manifests.of(save)
    if isinstance(manifest, Void):
        return None
    if isinstance(manifest, str):
        return None, manifest
    bad = None if trusting else probation.verdict(store, view, save)
    if problem := bad or verify.sizes(view, save, manifest):
        return None, problem
    return manifest, ""


def _verified(store: Store, save: Save, files: verify.Files, world: World | None) -> str:
    if world is None:
        return verify.content(store, save, files)
    shares = world.agree(
        lambda: verify.content(store, save, files, rank=world.rank, ranks=world.size), on=lambda world: True
    )
    return next((problem for problem in shares if problem), "")


def _look(writer: ObjectWriter) -> tuple[View, starts.Record]:
    view = look(writer.store)
    last = starts.newest(writer.store, view)
    starts.require_current(last, writer.uid, writer.generation, writer.store.url)
    return view, last


def _start(writer: ObjectWriter, found: Found[Save] | None, last: starts.Record, audited: bool) -> Start:
    return new_start(
        job=writer.uid,
        generation=writer.generation,
        attempt=writer.attempt,
        found=found,
        before=last.start,
        world_size=writer.world.size,
        audited=audited,
    )


def _lead(world: World | None, work: Callable[[], T]) -> T:
    return work() if world is None else world.lead(work)
