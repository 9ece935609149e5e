"""The audit in an object store, which knows no file that grows: one object for what a rank has recorded between two saves.

    audit/<start>/rank-00000.ids/000000000000     what is in a rank's file on a volume, from this byte on
    audit/<start>/rank-00000.ids/000000016734     … and so on, without a hole

No key is written twice with another content: what could not be uploaded is kept as it is and tried again, and what was
recorded meanwhile is the next object. Needs no torch.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from deepseek_trainer.checkpoint.objects.layout import View
from deepseek_trainer.checkpoint.objects.store import Store
from deepseek_trainer.data.audit.records import Header, file_of
from deepseek_trainer.data.audit.writer import AuditLog

AUDIT = "audit"
_PART = re.compile(rf"{AUDIT}/([^/]+)/rank-(\d{{5,}})\.ids/(\d{{12,}})")


class AuditObjects(AuditLog):
    """One rank's records of one start of training, in memory until a save takes them to the store."""

    def __init__(self, store: Store, header: Header) -> None:
        super().__init__(header)
        self._store, self._header = store, header
        self._sealed: list[tuple[str, bytes]] = []
        self._recorded = 0

    def sync(self) -> None:
        with self._lock:
            if self._pending:
                self._sealed.append((_key(self._header.start, self._header.rank, self._recorded), bytes(self._pending)))
                self._recorded += len(self._pending)
                self._pending.clear()
        while self._sealed:
            self._store.put(*self._sealed[0])
            del self._sealed[0]


def bring(store: Store, view: View, starts: Iterable[str], folder: Path) -> None:
    """Makes the files of these starts in a folder, as they would be on a volume; each ends where an object is missing.

    Raises:
        UnavailableError: the store refuses, or can't be reached.
    """
    wanted, parts = set(starts), defaultdict[Path, list[tuple[int, str]]](list)
    for key in view.keys:
        if (match := _PART.fullmatch(key)) and match[1] in wanted:
            parts[file_of(folder, match[1], int(match[2]))].append((int(match[3]), key))
    for path, found in parts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for place, key in sorted(found):
                if place != file.tell() or (content := store.read(key)) is None:
                    break
                file.write(content)


def _key(start: str, rank: int, place: int) -> str:
    return f"{file_of(Path(AUDIT), start, rank)}/{place:012d}"
