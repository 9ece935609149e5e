"""torch.distributed.checkpoint as it is used here: its failures are errors of ours, and what it writes is on the disk.

Its exception is no `Exception`, and so would pass by all that handles errors; and it syncs `.metadata` before it has
written it (torch 2.11), so that a power cut after the commit would tear a checkpoint that counts.

It is read by parts (`Source`): of a file, of an object in a store, or of what another node keeps of it.
"""

from __future__ import annotations

import io
import os
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, cast

import torch
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.utils import _create_file_view

from deepseek_trainer.checkpoint.hashing import Copy, Described, HashedFiles
from deepseek_trainer.errors import UnavailableError, first_line

METADATA = ".metadata"


class Opened(Protocol):
    """A file of a checkpoint, open for reading."""

    def part(self, offset: int, length: int) -> IO[bytes]:
        """So many bytes from there, as a file of their own."""

    def read(self, offset: int, length: int | None) -> bytes:
        """So many bytes from there; None: all to the end."""


Source = Callable[[str], AbstractContextManager[Opened]]
"""Opens a file of a checkpoint by its name."""


def write(
    state: dict[str, Any], folder: Path, group: ProcessGroup, *, copies: Callable[[], Copy] | None = None
) -> Described:
    """Writes this rank's shards as `__<rank>_0.distcp`, the first rank `.metadata` too; all is on the disk. A collective.

    Args:
        copies: makes what takes a second copy of a file.

    Returns:
        What this rank has written.
    """
    with told(f"checkpoint {folder}: can't be written"):
        writer = FileSystemWriter(folder, single_file_per_rank=True, sync_files=False)
        writer.fs = files = HashedFiles(copies)
        state_dict_saver.save(state, storage_writer=writer, process_group=group)
    return files.described


def read(state: dict[str, Any], where: object, source: Source, group: ProcessGroup | None = None) -> None:
    """Reads into the tensors of `state`, whatever the number of ranks was. A collective; without a group of one process.

    Args:
        where: the checkpoint, as people are told.
    """
    with told(f"checkpoint {where}: can't be read"), warnings.catch_warnings():
        if group is None:  # which torch remarks
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
        state_dict_loader.load(state, storage_reader=_Reader(source), process_group=group, no_dist=group is None)


def in_folder(folder: Path) -> Source:
    """The files as they are in a folder."""
    return lambda name: OpenFile.open(folder / name)


class OpenFile:
    """A plain file."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file

    @staticmethod
    @contextmanager
    def open(path: Path) -> Iterator[OpenFile]:
        with path.open("rb") as file:
            yield OpenFile(file)

    def part(self, offset: int, length: int) -> IO[bytes]:
        return cast(IO[bytes], _create_file_view(self._file, offset, length))

    def read(self, offset: int, length: int | None) -> bytes:
        self._file.seek(offset)
        return self._file.read(-1 if length is None else length)


class _Reader(FileSystemReader):
    def __init__(self, source: Source) -> None:
        super().__init__(".")
        self.fs, self._source = _Files(source), source

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with self._source(METADATA) as file:
            metadata: Metadata = pickle.loads(file.read(0, None))  # noqa: S301  of this job's, and it has been hashed
        return metadata

    def _slice_file(self, file: Any, sinfo: Any) -> IO[bytes]:
        return cast(Opened, file).part(sinfo.offset, sinfo.length)


class _Files(FileSystem):
    def __init__(self, source: Source) -> None:
        self._source = source

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        del mode  # it is only read
        with self._source(Path(path).name) as file:
            yield cast(io.IOBase, file)


def sizes(where: object, source: Source) -> dict[str, torch.Size | None]:
    """By name, what a checkpoint has: the size of a tensor, None for anything else."""
    with told(f"checkpoint {where}: can't be read"):
        known = _Reader(source).read_metadata().state_dict_metadata
    return {name: entry.size if isinstance(entry, TensorStorageMetadata) else None for name, entry in known.items()}


@contextmanager
def told(what: str) -> Iterator[None]:
    """Makes an error of ours of what the ranks have failed with."""
    try:
        yield
    except CheckpointException as error:
        rank, (cause, _) = next(iter(error.failures.items()))
        raise UnavailableError(f"{what}: rank {rank}: {type(cause).__name__}: {first_line(cause)}") from error
