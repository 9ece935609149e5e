"""Checkpoints in memory on a world of one: what counts there, and what becomes of a start when it doesn't."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from deepseek_trainer.checkpoint import layout, load, shares
from deepseek_trainer.checkpoint.load import Found
from deepseek_trainer.checkpoint.memory.shelf import Shelf
from deepseek_trainer.checkpoint.memory.tier import Memory
from deepseek_trainer.checkpoint.save import Writer
from deepseek_trainer.distributed.world import World, join
from deepseek_trainer.errors import DataError, UnavailableError
from support.saver import state, writer

pytestmark = pytest.mark.training

SHARD = "__0_0.distcp"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with join("gloo", {}) as world:
        yield world


class Start:
    """One start of training: its memory, and what it loads and saves."""

    def __init__(self, world: World, home: Path, limit: int = 2**20) -> None:
        self.world, self.folder = world, home / "job"
        self.shelf = Shelf(home / "memory", limit)
        self.memory = Memory(world, self.shelf, "127.0.0.1", peer=True)
        self.writer: Writer = replace(writer(self.folder, world, generation=1), memory=self.memory)

    def save(self, *steps: int) -> None:
        for step in steps:
            self.writer.save(state(step), {"step": step})

    def find(self) -> Found | None:
        return shares.lead(self.world, lambda check: load.newest_whole(self.folder, check), self.memory)

    def load(self) -> tuple[float, dict[str, int]]:
        """The step that the weights tell, and bytes by tier."""
        found, read = self.find(), state(0)
        assert found is not None
        load.read_into(read, found, self.world, self.memory)
        (weight,) = set(read["model"]["weight"].tolist())
        return weight, self.memory.tally(found.manifest.files, found.kept)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _shard(folder: Path, step: int) -> Path:
    return layout.checkpoint_folder(folder, step) / SHARD


def _kept(start: Start, step: int) -> dict[str, Path]:
    files = layout.read_manifest(layout.checkpoint_folder(start.folder, step)).files
    return {name: start.shelf.path(entry["sha256"]) for name, entry in files.items()}


def test_the_newest_committed_state_is_in_memory_and_nothing_else(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Start(world, tmp_path).memory):
        before = Start(world, tmp_path)
        before.save(2, 4)
        assert set(before.shelf.held()) == {path.name for path in _kept(before, 4).values()}
        (before.shelf.folder / ".half").write_bytes(b"of a process that was killed")

    start = Start(world, tmp_path)
    with closing(start.memory):
        assert not (start.shelf.folder / ".half").exists()
        size = start.find().manifest.bytes  # type: ignore[union-attr]
        _flip(_shard(start.folder, 4))
        assert start.load() == (4, {"memory": size, "peer": 0, "volume": 0})

    start = Start(world, tmp_path)  # now both are damaged
    with closing(start.memory), caplog.at_level(logging.WARNING):
        _flip(_kept(start, 4)[SHARD])
        step, tiers = start.load()
        assert (step, tiers["volume"]) == (2, size)
        assert f"passed over in memory {SHARD}: " in caplog.text
        assert f"{SHARD} differs from its sha256" in caplog.text
        assert not _kept(start, 4)[SHARD].exists()


def test_what_was_never_committed_is_never_read_in_memory(world: World, tmp_path: Path) -> None:
    start = Start(world, tmp_path)
    with closing(start.memory):
        start.save(2, 4)
        (layout.checkpoint_folder(start.folder, 4) / layout.COMMITTED).unlink()
    start = Start(world, tmp_path)
    with closing(start.memory):
        assert all(path.exists() for path in _kept(start, 4).values())
        step, tiers = start.load()
        assert (step, tiers["memory"]) == (2, 0)
        assert not any(path.exists() for path in _kept(start, 4).values()), "it is not kept any longer"


def test_a_save_that_fails_leaves_in_memory_what_was_there(world: World, tmp_path: Path) -> None:
    start = Start(world, tmp_path)
    with closing(start.memory):
        start.save(2)
        held = start.shelf.held()
        newer = Start(world, tmp_path)
        newer.memory.close()
        load.begin(start.folder, job="uid-1", generation=2, attempt=1, world_size=1)
        with pytest.raises(UnavailableError, match="must not commit"):
            start.save(4)
        assert start.shelf.held() == held


def test_memory_that_is_too_small_costs_nothing_but_memory(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = Start(world, tmp_path, limit=2000)
    with closing(start.memory), caplog.at_level(logging.WARNING):
        start.save(2, 4)
        assert "not kept in memory: " in caplog.text
        assert SHARD not in {name for name, path in _kept(start, 4).items() if path.exists()}
        step, tiers = start.load()
        assert step == 4
        assert tiers["volume"] > 0


def test_a_damaged_volume_and_no_memory_stop_loudly(world: World, tmp_path: Path) -> None:
    start = Start(world, tmp_path)
    with closing(start.memory):
        start.save(2)
        _flip(_shard(start.folder, 2))
        start.shelf.keep_only([])
    start = Start(world, tmp_path)
    with closing(start.memory), pytest.raises(DataError, match=r"no checkpoint .* is whole"):
        start.load()
