"""torch.distributed.checkpoint as it is used here: its failures are errors of ours, and what it writes is on the disk.

Its exception is no `Exception`, and so would pass by all that handles errors; and it syncs `.metadata` before it has
written it (torch 2.11), so that a power cut after the commit would tear a checkpoint that counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from deepseek_trainer import durable
from deepseek_trainer.errors import UnavailableError, first_line

METADATA = ".metadata"


def write(state: dict[str, Any], folder: Path, group: ProcessGroup, *, leader: bool) -> None:
    """Writes this rank's shards as `__<rank>_0.distcp`, the leader `.metadata` too; all is on the disk. A collective."""
    with told(f"checkpoint {folder}: can't be written"):
        writer = FileSystemWriter(folder, single_file_per_rank=True, sync_files=True)
        state_dict_saver.save(state, storage_writer=writer, process_group=group)
    if leader:
        durable.sync(folder / METADATA)


def read(state: dict[str, Any], folder: Path, group: ProcessGroup | None = None) -> None:
    """Reads into the tensors of `state`, whatever the number of ranks was. A collective; without a group of one process."""
    with told(f"checkpoint {folder}: can't be read"):
        state_dict_loader.load(
            state, storage_reader=FileSystemReader(folder), process_group=group, no_dist=group is None
        )


def sizes(folder: Path) -> dict[str, torch.Size | None]:
    """By name, what a checkpoint has: the size of a tensor, None for anything else."""
    with told(f"checkpoint {folder}: can't be read"):
        return tensors(FileSystemReader(folder))


def tensors(reader: FileSystemReader) -> dict[str, torch.Size | None]:
    """The same, whatever is read from."""
    known = reader.read_metadata().state_dict_metadata
    return {name: entry.size if isinstance(entry, TensorStorageMetadata) else None for name, entry in known.items()}


@contextmanager
def told(what: str) -> Iterator[None]:
    """Makes an error of ours of what the ranks have failed with."""
    try:
        yield
    except CheckpointException as error:
        rank, (cause, _) = next(iter(error.failures.items()))
        raise UnavailableError(f"{what}: rank {rank}: {type(cause).__name__}: {first_line(cause)}") from error
