"""Checkpoints in memory with an object store: a start reads there what the store's manifest names, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from deepseek_trainer.checkpoint.home import Bucket
from deepseek_trainer.checkpoint.load import Found
from deepseek_trainer.checkpoint.memory.shelf import Shelf
from deepseek_trainer.checkpoint.memory.tier import Memory, Node
from deepseek_trainer.checkpoint.objects.layout import MANIFEST
from deepseek_trainer.checkpoint.objects.manifests import Manifests
from deepseek_trainer.checkpoint.objects.store import Store
from deepseek_trainer.distributed.world import World, join
from deepseek_trainer.errors import UnavailableError
from support.buckets import begun, save, serving, store_of, writer
from support.ports import free_port
from support.s3 import Server
from support.saver import state

pytestmark = [pytest.mark.training, pytest.mark.timeout(200)]
SHARD = "__0_0.distcp"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with join("gloo", {}) as world:
        yield world


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


class Start:
    """A start of training with memory: what it goes on from, and the shards that it has asked the store for."""

    def __init__(self, server: Server, name: str, world: World, home: Path, generation: int) -> None:
        self.read: list[str] = []
        server.hook = self._seen
        self.store: Store = store_of(server, name)
        self.shelf = Shelf(home, 2**20)
        self.memory = Memory(world, self.shelf, "127.0.0.1", peer=True)
        self.found, self.writer = begun(writer(self.store, world, generation=generation, memory=self.memory))

    def load(self, found: Found[Any] | None) -> tuple[float, dict[str, int]]:
        """The step that the weights tell, and bytes by tier."""
        assert found is not None
        read = state(0)
        Bucket(self.store, Manifests(self.store), self.memory).read_into(read, found, self.writer.world)
        (weight,) = set(read["model"]["weight"].tolist())
        return weight, self.memory.tally(found.manifest.files, found.kept)

    def _seen(self, method: str, path: str) -> None:
        if method == "GET" and path.endswith((SHARD, ".metadata")):
            self.read.append(path)


def test_the_newest_committed_state_is_read_in_memory_and_what_is_not_there_in_the_store(
    server: Server, world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def start(generation: int) -> Start:
        return Start(server, "newest", world, tmp_path, generation)

    first = start(1)
    with closing(first.memory):
        save(first.writer, 2, 4)
    second = start(2)
    with closing(second.memory):
        assert second.found is not None
        files, size = second.found.manifest.files, second.found.manifest.bytes
        assert set(second.shelf.held()) == {entry["sha256"] for entry in files.values()}
        assert second.load(second.found) == (4, {"memory": size, "peer": 0, "volume": 0})
        assert not second.read

        # a neighbour that has gone since the ranks met: its part is read, and hashed, where it was committed
        second.memory._nodes[7] = Node("127.0.0.1", free_port(), frozenset())
        gone = replace(second.found, kept={SHARD: 7, ".metadata": 0})
        with caplog.at_level(logging.WARNING):
            assert second.load(gone)[0] == 4
        assert f"read where it was committed {SHARD}: 127.0.0.1 can't be reached" in caplog.text

        kept = second.shelf.path(files[SHARD]["sha256"])
        kept.write_bytes(bytes(kept.stat().st_size))
    third = start(3)
    with closing(third.memory):
        step, tiers = third.load(third.found)
        assert (step, tiers["volume"]) == (4, files[SHARD]["bytes"])
        assert f"passed over in memory {SHARD}: " in caplog.text
        assert {path.rpartition("/")[2] for path in third.read} == {SHARD}


def test_what_the_store_has_no_manifest_of_is_never_read_in_memory(
    server: Server, world: World, tmp_path: Path
) -> None:
    first = Start(server, "uncommitted", world, tmp_path, 1)
    with closing(first.memory):
        save(first.writer, 2)
        held = first.shelf.held()
        server.hook = lambda method, path: "refused" if method == "PUT" and path.endswith(MANIFEST) else None
        with pytest.raises(UnavailableError):
            save(first.writer, 4)
        assert first.shelf.held() == held, "a save that fails leaves in memory what was there"
        server.hook = lambda method, path: None
        save(first.writer, 6)
        newest = next(key for key in first.store.sizes() if key.startswith("step-00000006") and key.endswith(MANIFEST))
        first.store.delete([newest])
    second = Start(server, "uncommitted", world, tmp_path, 2)
    with closing(second.memory):
        step, tiers = second.load(second.found)
        assert (step, tiers["memory"]) == (2, 0)
        assert set(second.shelf.held()).isdisjoint(held), "the store has it, and nobody has copied it since"
