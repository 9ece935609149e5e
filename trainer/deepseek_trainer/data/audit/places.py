"""Where a proof finds what it judges: a job's folder on a volume, or its part of an object store. Needs no torch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deepseek_trainer.checkpoint import layout
from deepseek_trainer.checkpoint.layout import Manifest, Start
from deepseek_trainer.data.audit.lineage import lineage, newest
from deepseek_trainer.errors import DataError


@dataclass(frozen=True)
class Place:
    """What is there.

    Attributes:
        where: as people are told.
        starts: of training, oldest first.
        checkpoint: name of the newest whole checkpoint of the present weights.
        records: folder with the files of the ranks.
    """

    where: str
    starts: Sequence[Start]
    checkpoint: str
    manifest: Manifest
    records: Path


@contextmanager
def opened(where: Path | str, endpoint: str = "") -> Iterator[Place]:
    """A folder, or the URL of a job's part of an object store, whose records are brought to this machine's disk.

    Raises:
        DataError: there is nothing to judge: no folder, or no whole checkpoint.
        ConfigError: the object store can't be one.
        UnavailableError: the store refuses, or can't be reached.
    """
    if "://" not in str(where):
        yield in_folder(Path(where))
        return
    with tempfile.TemporaryDirectory(prefix="audit-") as scratch:
        yield _in_store(str(where), endpoint, Path(scratch))


def in_folder(folder: Path) -> Place:
    """Raises:
    DataError: there is nothing to judge: no folder, or no whole checkpoint.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give the job's folder on the checkpoint volume")
    found = newest(folder)
    if found is None:
        raise DataError(_nothing(folder))
    return Place(str(folder), layout.starts(folder), found[0].name, found[1], folder / layout.AUDIT)


def _in_store(url: str, endpoint: str, scratch: Path) -> Place:
    from deepseek_trainer.checkpoint.objects import starts, verify
    from deepseek_trainer.checkpoint.objects.manifests import Manifests
    from deepseek_trainer.checkpoint.objects.store import connect, look
    from deepseek_trainer.data.audit.objects import bring

    store = connect(url, endpoint)
    view, manifests = look(store), Manifests(store)
    begun = starts.on_record(store, view)
    for save in view.saves():
        manifest = manifests.of(save) if verify.is_committed(view, save) else None
        if not isinstance(manifest, Manifest) or verify.sizes(view, save, manifest):
            continue
        if not begun or save.step <= begun[-1].step or manifest.start == begun[-1].start:
            parts = lineage(begun, manifest)
            bring(store, view, [part.start.start for part in parts if part.start is not None], scratch)
            return Place(store.url, begun, save.name, manifest, scratch)
    raise DataError(_nothing(store.url))


def _nothing(where: object) -> str:
    return f"no checkpoint in {where} is whole: nothing is committed yet, so there is nothing to prove"
