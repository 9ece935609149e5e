"""Ranks open one and the same data, whether their nodes share a folder or each has its own; or all of them say why not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import torch
from deepseek_trainer.data import agreed, prepare
from deepseek_trainer.distributed.world import World
from deepseek_trainer.errors import DataError
from support.corpora import TEXTS, config, write

T = TypeVar("T")
NODES, PER_NODE = 2, 2
RANKS = NODES * PER_NODE
MANY = TEXTS * 40


@dataclass(frozen=True)
class Table:
    """Where the ranks of a played world, each a thread, lay down what they give each other."""

    values: list[Any]
    full: threading.Barrier


@dataclass(frozen=True)
class PlayedWorld(World):
    table: Table = field(kw_only=True)

    def gather(self, value: T) -> list[T]:
        self.table.full.wait(30)
        self.table.values[self.rank] = value
        self.table.full.wait(30)
        return list(self.table.values)


def on_all_ranks(open_on: Callable[[World], Any]) -> list[Any]:
    """What each rank gets, or how it fails."""
    table = Table([None] * RANKS, threading.Barrier(RANKS))

    def of(rank: int) -> Any:
        world = PlayedWorld(rank, rank % PER_NODE, RANKS, torch.device("cpu"), cast(Any, None), table=table)
        try:
            return open_on(world)
        except DataError as error:
            return error

    with ThreadPoolExecutor(RANKS) as pool:
        return list(pool.map(of, range(RANKS)))


def opened(sources: list[Path], caches: list[Path]) -> list[Any]:
    """Each rank opens what its node has; one entry of both lists for each node."""

    def open_on(world: World) -> Any:
        node = world.rank // PER_NODE
        return agreed.open_samples(config(sources[node], caches[node]), world, {})

    return on_all_ranks(open_on)


def test_a_shared_folder_is_prepared_once_and_read_whole_once_a_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Path] = []
    real = prepare.prepare

    def counting(*arguments: Any, **options: Any) -> Path:
        looks.append(real(*arguments, **options))
        return looks[-1]

    monkeypatch.setattr(agreed, "prepare", counting)
    source = write(tmp_path / "a.jsonl", MANY)
    found = opened([source] * NODES, [tmp_path / "cache"] * NODES)
    assert len({samples.store.folder for samples in found}) == 1
    assert len(looks) == NODES


def test_nodes_that_share_no_folder_prepare_the_same(tmp_path: Path) -> None:
    sources = [write(tmp_path / node / "a.jsonl", MANY) for node in "xy"]
    found = opened(sources, [tmp_path / node / "cache" for node in "xy"])
    assert [samples.store.folder.relative_to(tmp_path).parts[0] for samples in found] == ["x", "x", "y", "y"]


def test_other_data_on_another_node_is_told_on_every_rank(tmp_path: Path) -> None:
    sources = [write(tmp_path / node / "a.jsonl", MANY) for node in "xy"]
    sources[1].write_text("".join(sources[1].read_text().splitlines(keepends=True)[:-1]))
    found = opened(sources, [tmp_path / node / "cache" for node in "xy"])
    assert all(isinstance(error, DataError) for error in found), found
    assert all("the ranks have different data" in str(error) for error in found)
