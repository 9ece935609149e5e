"""Checkpoints below a URL of the S3 server of `support.s3`, on a world of one: what makes, saves and reads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from deepseek_trainer.checkpoint.load import Found
from deepseek_trainer.checkpoint.memory.tier import Memory
from deepseek_trainer.checkpoint.objects import load
from deepseek_trainer.checkpoint.objects.layout import Save
from deepseek_trainer.checkpoint.objects.manifests import Manifests
from deepseek_trainer.checkpoint.objects.save import ObjectWriter
from deepseek_trainer.checkpoint.objects.store import Store, connect
from deepseek_trainer.distributed.world import World
from support.s3 import ALONE, BUCKET, CREDENTIALS, Server
from support.saver import author, state


@contextmanager
def serving() -> Iterator[Server]:
    """The server, with its bucket, and with the credentials in this process' environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (CREDENTIALS | ALONE).items():
            patch.setenv(name, value)
        server = Server()
        with suppress(FileExistsError):  # of another server in this process
            connect(f"s3://{BUCKET}", server.endpoint)._files.mkdir(BUCKET)
        yield server
        server.close()


def store_of(server: Server, name: str) -> Store:
    """A part of the bucket for the test of that name alone."""
    return connect(f"s3://{BUCKET}/{abs(hash(name))}", server.endpoint)


def writer(store: Store, world: World, *, memory: Memory | None = None, **fields: Any) -> ObjectWriter:
    """Args:
    fields: of `author`.
    """
    return ObjectWriter(store, Manifests(store), memory=memory, **author(world, **fields))


def begun(made: ObjectWriter) -> tuple[Found[Save] | None, ObjectWriter]:
    found, start, number = load.begin(made)
    return found, replace(made, start=start.start, number=number)


def save(made: ObjectWriter, *steps: int) -> None:
    for step in steps:
        made.save(state(step), {"step": step})
