"""torch.distributed.checkpoint to and from an object store: shards stream, and are hashed on their way.

A rank's shards are several objects where they are large, each uploaded by a thread of its own in blocks, so that memory
holds some blocks and not a shard. There is no scratch file: it would take the rank's whole state on the node's disk and write
every byte twice. What torch would do after the upload (a rename of `.metadata`, in a store a copy) is not done.

Reading asks for the bytes of one tensor at a time, so any number of ranks reads just its own part.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

import torch
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint import state_dict_saver
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor
from torch.futures import Future

from deepseek_trainer.checkpoint import dcp
from deepseek_trainer.checkpoint.hashing import Copy, Described, Hashing
from deepseek_trainer.checkpoint.objects.layout import Save
from deepseek_trainer.checkpoint.objects.store import BLOCK, Store

STREAMS = 4
"""Objects that a rank uploads at a time."""


def write(
    state: dict[str, Any],
    store: Store,
    save: Save,
    group: ProcessGroup,
    *,
    copies: Callable[[], Copy] | None = None,
) -> Described:
    """Uploads this rank's shards, the coordinator `.metadata` too; what this rank has written. A collective.

    Args:
        copies: makes what takes a second copy of an object.
    """
    objects = _Objects(store, save, copies)
    writer = _Writer(objects, streams=min(STREAMS, 1 + _bytes(state) // (2 * BLOCK)))
    with dcp.told(f"checkpoint {save}: can't be written"):
        state_dict_saver.save(state, storage_writer=writer, process_group=group)
    return objects.written


def read(state: dict[str, Any], store: Store, save: Save, files: Described, group: ProcessGroup | None = None) -> None:
    """Reads into the tensors of `state`, whatever the number of ranks was. A collective; without a group of one process."""
    dcp.read(state, save, in_store(store, save, files), group)


def in_store(store: Store, save: Save, files: Described) -> dcp.Source:
    """The objects of a save, as files that are read by parts."""

    @contextmanager
    def opened(name: str) -> Iterator[dcp.Opened]:
        with store.reading(save.key(name), files[name]["bytes"]) as stream:
            yield _Object(stream)

    return opened


class _Object:
    """A part is one request: torch seeks to and fro in what it reads."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def part(self, offset: int, length: int) -> IO[bytes]:
        return io.BytesIO(self.read(offset, length))

    def read(self, offset: int, length: int | None) -> bytes:
        self._stream.seek(offset)
        return self._stream.read(-1 if length is None else length)


class _Objects(FileSystem):
    """A save's objects, as torch asks for files; errors of the writing threads are kept, as torch would lose them."""

    def __init__(self, store: Store, save: Save, copies: Callable[[], Copy] | None) -> None:
        self._store, self._save, self._copies = store, save, copies
        self.written: Described = {}
        self.errors: list[Exception] = []

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[Any]:
        del mode  # it is only written
        name, copy = str(path), self._copies() if self._copies else None
        try:
            with self._store.writing(self._save.key(name)) as stream:
                hashed = _HashedObject(stream, copy)
                yield hashed
            self.written[name] = described = hashed.describe()
            if copy is not None:
                copy.finish(described["sha256"])
        except Exception as error:
            if copy is not None:
                copy.abandon()
            self.errors.append(error)  # and not raised: a thread has nobody who would hear it

    def raise_error(self) -> None:
        if self.errors:
            raise self.errors[0]

    def concat_path(self, path: str | os.PathLike[str], suffix: str) -> str:
        del path
        return suffix

    def init_path(self, path: str | os.PathLike[str]) -> str | os.PathLike[str]:
        return path

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        """An object store has no folders."""

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        raise NotImplementedError("an object has one name")

    def rm_file(self, path: str | os.PathLike[str]) -> None:
        raise NotImplementedError("what a save has written is deleted by retention")

    def exists(self, path: str | os.PathLike[str]) -> bool:
        return str(path) in self.written

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True


class _Writer(FileSystemWriter):
    def __init__(self, objects: _Objects, *, streams: int) -> None:
        super().__init__(".", single_file_per_rank=True, sync_files=False, thread_count=streams)
        self.fs = objects

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        written = super().write_data(plan, planner)
        self._objects.raise_error()
        if len(written.value()) != len(plan.items):
            raise RuntimeError(f"{len(written.value())} of {len(plan.items)} tensors were written")
        return written

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        metadata.version = "1.0.0"  # as torch's own writer has it
        metadata.storage_data = {result.index: result.storage_data for each in results for result in each}
        metadata.storage_meta = self.storage_meta()
        with self.fs.create_stream(dcp.METADATA, "wb") as stream:
            pickle.dump(metadata, stream)
        self._objects.raise_error()

    @property
    def _objects(self) -> _Objects:
        return cast(_Objects, self.fs)


class _HashedObject(Hashing):
    """An object that is uploaded: a large piece is handed on block by block."""

    def __init__(self, stream: IO[bytes], copy: Copy | None) -> None:
        super().__init__()
        self._stream, self._copy = stream, copy

    def _pass_on(self, piece: memoryview) -> None:
        for first in range(0, len(piece), BLOCK):
            block = piece[first : first + BLOCK]
            self._digest.update(block)
            self._stream.write(block)
            if self._copy is not None:
                self._copy.write(block)


def _bytes(state: Any) -> int:
    """Of the tensors that this rank writes, about."""
    if isinstance(state, dict):
        return sum(map(_bytes, state.values()))
    if isinstance(state, DTensor):
        return state.to_local().nbytes
    return state.nbytes if isinstance(state, torch.Tensor) else 0
