"""A shard's rows, and a rank's supply of them: the same whoever opens it, and an error that says what to do if it can't be."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deepseek_trainer.data import preparation, prepare
from deepseek_trainer.data.dynamic import arrivals, shards
from deepseek_trainer.data.dynamic.arrivals import Stream
from deepseek_trainer.data.dynamic.leases import Lease
from deepseek_trainer.data.dynamic.runs import Run
from deepseek_trainer.data.dynamic.shards import Cutting, Rows, Shard, open_shard
from deepseek_trainer.data.dynamic.supply import Lack, Supply
from deepseek_trainer.data.parts import Part
from deepseek_trainer.data.samples import IGNORED
from deepseek_trainer.errors import DataError, UnavailableError
from support.eventually import eventually
from support.leased import config_of, text_of
from torch.distributed import HashStore  # type: ignore[attr-defined]  # exported by a star

CUTTING = Cutting("f" * 64, 0, 8, 2, masked=False, held_out=0.1, shuffled=True)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Part, ...]:
    folder = tmp_path_factory.mktemp("parts")
    (folder / "a.jsonl").write_text(text_of(random.Random(0), 120))
    wanted = preparation.plan(config_of(folder, folder / "cache"), {}, 1024)
    wanted.work.mkdir(parents=True)
    prepare.provide_tokenizer(wanted)
    return wanted.parts


def test_a_shard_is_the_same_whoever_opens_it(parts: tuple[Part, ...]) -> None:
    one, same = (open_shard(Lease(5), parts[0], CUTTING) for _ in range(2))
    assert one.order.tolist() == same.order.tolist() != list(range(len(one.order)))
    assert open_shard(Lease(9), parts[0], CUTTING).order.tolist() != one.order.tolist(), "another turn, another order"
    assert sorted(one.order.tolist()) == list(range(one.rows.training))
    assert open_shard(Lease(5), parts[0], replace(CUTTING, shuffled=False)).order.tolist() == sorted(one.order.tolist())


def test_rows_of_several_shards_are_those_of_each(parts: tuple[Part, ...]) -> None:
    first, second = (open_shard(Lease(n), part, replace(CUTTING, masked=n == 1)) for n, part in enumerate(parts[:2]))
    chosen = [(first.rows, first.order[:3]), (second.rows, second.order[:20])]
    rows = Rows(chosen, 8)
    assert len(rows) == 23
    made = rows.collate(np.array([1, 2, *range(3, 23)]))
    assert made.positions is not None, "documents of the second are masked"
    apart = first.rows.collate(first.order[1:3])
    assert torch.equal(made.inputs[:2], apart.inputs)
    assert torch.equal(made.labels[:2], apart.labels)
    assert made.positions[:2].tolist() == [list(range(8))] * 2
    masked = second.rows.collate(second.order[:20])
    assert torch.equal(made.labels[2:], masked.labels)
    assert masked.positions is not None
    assert torch.equal(made.positions[2:], masked.positions)
    tokens, targets = rows.totals()
    assert targets == int((rows.collate(np.arange(23)).labels != IGNORED).sum()) <= tokens
    assert (rows.collate(np.zeros(0, np.int64)).labels == IGNORED).all()


def test_a_damaged_shard_is_made_again(parts: tuple[Part, ...]) -> None:
    before = open_shard(Lease(0), parts[1], CUTTING)
    parts[1].path.write_bytes(parts[1].path.read_bytes()[:200])
    assert open_shard(Lease(0), parts[1], CUTTING).mark == before.mark


def test_what_was_begun_and_changed_is_named(parts: tuple[Part, ...]) -> None:
    mark = open_shard(Lease(0), parts[0], CUTTING).mark
    assert open_shard(Lease(0, 3, mark), parts[0], CUTTING).mark == mark
    with pytest.raises(DataError, match=r"a\.jsonl: changed since the checkpoint, which has trained on 3 samples"):
        open_shard(Lease(0, 3, "another"), parts[0], CUTTING)


def test_too_many_rows_are_refused_with_a_remedy(parts: tuple[Part, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "ROWS_MAX", 5)
    with pytest.raises(DataError, match=r"more than 5 samples of 8; lower data\.dynamic\.shardBytes"):
        open_shard(Lease(0), parts[0], CUTTING)


@pytest.fixture
def supplies() -> Iterator[list[Supply]]:
    made: list[Supply] = []
    yield made
    for supply in made:
        supply.close()


def test_a_supply_gives_each_row_once_from_where_its_lease_begins(
    parts: tuple[Part, ...], supplies: list[Supply]
) -> None:
    leases = iter([Lease(4, 2), Lease(7), Lease(8)])
    here: dict[int, Part] = {4: parts[0], 7: parts[1]}

    def opened(lease: Lease) -> Shard | Lack:
        return open_shard(lease, here[lease.number], CUTTING) if lease.number in here else "ended"

    supply = Supply(lambda: next(leases), opened)
    supplies.append(supply)
    sizes = [open_shard(Lease(0), part, CUTTING).rows.training for part in parts[:2]]
    assert supply.await_rows(0) == (0, False), "nothing is leased before it is asked for"
    assert supply.await_rows(10**6) == (sizes[0] - 2 + sizes[1], True)
    taken = supply.take(3) + supply.take(sizes[0] - 2)
    assert [run for _, run, _ in taken] == [
        Run(4, 2, 5, False),
        Run(4, 5, sizes[0], True),
        Run(7, 0, 3, False),
    ]
    assert supply.await_rows(10**6) == (sizes[1] - 3, True)
    with pytest.raises(RuntimeError, match="more were asked for"):
        supply.take(10**6)


def test_a_source_without_any_text_ends_in_an_error(parts: tuple[Part, ...], supplies: list[Supply]) -> None:
    empty = Path(parts[0].folder) / "empty.jsonl"
    empty.write_text("\n\n")
    piece = replace(parts[0].piece, path=str(empty), name="empty", start=0, end=2, bytes=2, last=True)
    nothing = replace(parts[0], number=99, piece=piece)
    supply = Supply(lambda: Lease(0), lambda lease: open_shard(lease, nothing, CUTTING), empty_max=3)
    supplies.append(supply)
    with pytest.raises(DataError, match="there is no text in it"):
        supply.await_rows(1)


def test_a_file_that_this_node_does_not_see_is_waited_for_and_named(
    parts: tuple[Part, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "_LOOK_EVERY_S", 0.01)
    store, late = HashStore(), tmp_path / "late.jsonl"
    piece = replace(parts[0].piece, path=str(late))
    said: dict[str, Any] = {"first": 0, "state": [1, 2, 3, 4], "pieces": [vars(piece)]}
    store.set("data/start/file/0", json.dumps(said))
    store.set("data/start/files", json.dumps({"count": 1, "ended": False, "failed": None}))
    stream = Stream(
        store, "start", make_part=lambda piece, state: replace(parts[0], piece=piece), announcer=None, clears=False
    )
    assert stream.part(1) == "waiting"
    found: list[Part | Lack] = []
    thread = threading.Thread(target=lambda: found.append(stream.part(0)))
    thread.start()
    late.touch()
    eventually(lambda: found, deadline_s=10)
    thread.join()
    late.unlink()
    monkeypatch.setattr(arrivals, "_SEEN_S", 0.02)
    with pytest.raises(UnavailableError, match=r"late\.jsonl: rank 0 has seen it .* on a volume that all"):
        stream.part(0)
