"""Where a job's checkpoints are, as training sees it: a folder on a volume, or its part of an object store.

Which one it is nobody else needs to know: both keep the same promise, each by its own protocol (`save`, `load`, and the
same names in `objects`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from deepseek_trainer.checkpoint import interval, layout, leftout, load, probation, shares
from deepseek_trainer.checkpoint.interval import Past
from deepseek_trainer.checkpoint.layout import Start
from deepseek_trainer.checkpoint.load import Found
from deepseek_trainer.checkpoint.memory.tier import Committed, Memory
from deepseek_trainer.checkpoint.objects import layout as keys
from deepseek_trainer.checkpoint.objects import load as objects
from deepseek_trainer.checkpoint.objects import probation as failures
from deepseek_trainer.checkpoint.objects import starts, transfer, verify
from deepseek_trainer.checkpoint.objects.manifests import Manifests
from deepseek_trainer.checkpoint.objects.save import ObjectWriter
from deepseek_trainer.checkpoint.objects.store import Store, connect, look
from deepseek_trainer.checkpoint.save import Writer
from deepseek_trainer.config import CheckpointSpec, ResumeFrom
from deepseek_trainer.data.audit.objects import AuditObjects
from deepseek_trainer.data.audit.records import Header
from deepseek_trainer.data.audit.writer import AuditFile, AuditLog
from deepseek_trainer.distributed.world import World
from deepseek_trainer.errors import DataError
from deepseek_trainer.model import pretrained

AnyWriter = Writer | ObjectWriter
Judge = Callable[[Found[Any]], None]


@dataclass(frozen=True)
class Begun:
    """A start that is on record.

    Attributes:
        found: what it goes on from; None: from scratch.
        writer: what it saves with.
    """

    found: Found[Any] | None
    start: Start
    writer: AnyWriter


class Home(Protocol):
    """What training asks of the place where its checkpoints are."""

    def writer(self, **author: Any) -> AnyWriter:
        """What saves there, before there is a start.

        Args:
            author: the fields of `author.Author`; its `memory` is the home's.
        """

    def begin(self, writer: AnyWriter, *, audited: bool, fits: Judge) -> Begun:
        """See `load.begin`. A collective."""

    def audit(self, header: Header) -> AuditLog:
        """What keeps a rank's records of a start."""

    def another(self, wanted: ResumeFrom) -> Found[Any]:
        """See `load.of_another`."""

    def read_into(self, state: dict[str, Any], found: Found[Any], world: World) -> frozenset[str]:
        """See `load.read_parts`. A collective."""

    def left_out(self, uid: str, ledger: dict[str, Any]) -> frozenset[int]:
        """See `leftout.steps`."""

    def leave_out(self, uid: str, ledger: dict[str, Any], steps: range, why: str) -> None:
        """See `leftout.record`."""

    def past(self, uid: str) -> Past:
        """See `interval.past`."""

    def keep_configuration(self, config: Any) -> None:
        """Puts the architecture beside the checkpoints, so that they can be exported without their job."""

    def record_failure(self, where: Any, start: str, step: int, error: Exception) -> None:
        """See `probation.record_in_folder`."""


@dataclass(frozen=True)
class Volume:
    """A folder, the same on every rank.

    Attributes:
        memory: of the nodes, where the newest one is, too; None: it is nowhere else.
    """

    folder: Path
    memory: Memory | None = None

    def writer(self, **author: Any) -> Writer:
        return Writer(self.folder, memory=self.memory, **author)

    def begin(self, writer: AnyWriter, *, audited: bool, fits: Judge) -> Begun:
        found, start = shares.lead(
            writer.world,
            lambda check: load.begin(
                self.folder,
                job=writer.uid,
                generation=writer.generation,
                attempt=writer.attempt,
                world_size=writer.world.size,
                audited=audited,
                fits=fits,
                check=check,
            ),
            self.memory,
        )
        return Begun(found, start, replace(writer, start=start.start))

    def audit(self, header: Header) -> AuditLog:
        return AuditFile(self.folder / layout.AUDIT, header)

    def another(self, wanted: ResumeFrom) -> Found[Path]:
        return load.of_another(wanted)

    def read_into(self, state: dict[str, Any], found: Found[Path], world: World) -> frozenset[str]:
        own = found.path.parent == self.folder
        return load.read_into(state, found, world, self.memory if own else None)

    def left_out(self, uid: str, ledger: dict[str, Any]) -> frozenset[int]:
        return leftout.steps(self.folder, job=uid, ledger=ledger)

    def leave_out(self, uid: str, ledger: dict[str, Any], steps: range, why: str) -> None:
        leftout.record(self.folder, job=uid, ledger=ledger, steps=steps, why=why)

    def past(self, uid: str) -> Past:
        return interval.past(self.folder, uid)

    def keep_configuration(self, config: Any) -> None:
        pretrained.keep_configuration(self.folder / layout.MODEL, config)

    def record_failure(self, where: Path, start: str, step: int, error: Exception) -> None:
        probation.record_in_folder(where, start, step, error)


@dataclass(frozen=True)
class Bucket:
    """A part of an object store.

    Attributes:
        memory: see `Volume.memory`.
    """

    store: Store
    manifests: Manifests
    memory: Memory | None = None

    def writer(self, **author: Any) -> ObjectWriter:
        return ObjectWriter(self.store, self.manifests, memory=self.memory, **author)

    def begin(self, writer: AnyWriter, *, audited: bool, fits: Judge) -> Begun:
        assert isinstance(writer, ObjectWriter)  # noqa: S101  `writer` has made it
        found, start, number = objects.begin(writer, fits, audited=audited)
        return Begun(found, start, replace(writer, start=start.start, number=number))

    def audit(self, header: Header) -> AuditLog:
        return AuditObjects(self.store, header)

    def another(self, wanted: ResumeFrom) -> Found[keys.Save]:
        store, field = connect(wanted.directory, self.store.endpoint), "checkpoint.resumeFrom"
        view, manifests = look(store), Manifests(store)
        if wanted.step is None:
            newest = objects.newest_whole(store, manifests, view)
            if newest is None:
                raise DataError(f"{field}: {store.url} has no checkpoint; correct subPath, or remove {field}")
            return newest
        problem, found = objects.at_step(store, manifests, view, wanted.step)
        if found is None:
            raise DataError(
                f"{field}: step {wanted.step} in {store.url} can't be used: {problem}; correct step, or remove it for the "
                "newest one"
            )
        return found

    def read_into(self, state: dict[str, Any], found: Found[keys.Save], world: World) -> frozenset[str]:
        save, files = found.path, found.manifest.files
        own = save.url == self.store.url
        store = self.store if own else connect(save.url, save.endpoint)
        committed = Committed(
            str(save),
            transfer.in_store(store, save, files),
            lambda name: verify.difference(store, save, name, files[name]),
        )
        return load.read_parts(state, found, world, committed, self.memory if own else None)

    def left_out(self, uid: str, ledger: dict[str, Any]) -> frozenset[int]:
        said = (self.store.read(key) or b"" for key in self.store.sizes() if key.startswith(keys.LEFT_OUT))
        return leftout.read(said, job=uid, ledger=ledger)

    def leave_out(self, uid: str, ledger: dict[str, Any], steps: range, why: str) -> None:
        key = f"{keys.LEFT_OUT}{steps.start:08d}-{secrets.token_hex(4)}.json"
        self.store.put(key, leftout.line(job=uid, ledger=ledger, steps=steps, why=why).encode())

    def past(self, uid: str) -> Past:
        return starts.past(starts.newest(self.store, look(self.store)), uid)

    def keep_configuration(self, config: Any) -> None:
        content = pretrained.described(config)
        if self.store.read(keys.MODEL) != content:
            self.store.put(keys.MODEL, content)

    def record_failure(self, where: keys.Save, start: str, step: int, error: Exception) -> None:
        failures.record(self.store, self.manifests, where, start, step, error)


def of(spec: CheckpointSpec, memory: Memory | None = None) -> Home:
    """Where a job saves.

    Args:
        memory: see `Volume.memory`.

    Raises:
        ConfigError: the object store can't be one.
    """
    if "://" not in spec.directory:
        return Volume(Path(spec.directory), memory)
    store = connect(spec.directory, spec.endpoint)
    return Bucket(store, Manifests(store), memory)
