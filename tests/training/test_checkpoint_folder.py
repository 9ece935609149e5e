"""Commit, verification, fallback, fencing and retention, on a world of one inside this process."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from deepseek_trainer import durable
from deepseek_trainer.checkpoint import layout, load, retention
from deepseek_trainer.checkpoint.author import Shown
from deepseek_trainer.checkpoint.save import Writer
from deepseek_trainer.distributed.world import World, join
from deepseek_trainer.errors import DataError, FencedError
from support import saver

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with join("gloo", {}) as world:
        yield world


@pytest.fixture
def writer(world: World, tmp_path: Path) -> Writer:
    return saver.writer(tmp_path / "ck", world, generation=2, keep=3)


def _save(writer: Writer, *steps: int) -> None:
    for step in steps:
        writer.save({"model": {"weight": torch.full((64,), float(step))}}, {"step": step})


def _steps(folder: Path) -> list[int]:
    return [step for step, _ in layout.checkpoints(folder)]


def _shard(checkpoint: Path) -> Path:
    return next(checkpoint.glob("*.distcp"))


def _flip(checkpoint: Path) -> None:
    content = bytearray(_shard(checkpoint).read_bytes())
    content[len(content) // 2] ^= 1
    _shard(checkpoint).write_bytes(content)


def _truncate(checkpoint: Path) -> None:
    _shard(checkpoint).write_bytes(_shard(checkpoint).read_bytes()[:-1])


def _other_ledger(checkpoint: Path) -> None:
    manifest = json.loads((checkpoint / "manifest.json").read_bytes())
    (checkpoint / "manifest.json").write_text(json.dumps({**manifest, "ledger": {"step": 1}}))
    (checkpoint / "COMMITTED").write_text(durable.describe(checkpoint / "manifest.json")["sha256"])


def _other_chain(checkpoint: Path) -> None:
    """Still JSON, and every field is there."""
    path = checkpoint / "manifest.json"
    path.write_text(path.read_text().replace('"step": 4', '"step": 5'))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_flip, "differs from its sha256"),
        (_truncate, "bytes instead of"),
        (lambda checkpoint: _shard(checkpoint).unlink(), "is missing"),
        (lambda checkpoint: (checkpoint / ".metadata").unlink(), ".metadata is missing"),
        (lambda checkpoint: (checkpoint / "manifest.json").write_text("{"), "manifest.json differs from"),
        (lambda checkpoint: (checkpoint / "manifest.json").unlink(), "manifest.json can't be read: No such file"),
        (lambda checkpoint: (checkpoint / "COMMITTED").unlink(), "it was never committed"),
        (_other_chain, "manifest.json differs from the sha256 in COMMITTED"),
        (lambda checkpoint: (checkpoint / "COMMITTED").write_bytes(b"\xff"), "manifest.json differs from"),
        (_other_ledger, "its ledger is at step 1, its weights at 4"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_the_reason(
    writer: Writer, damage: Callable[[Path], None], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    _save(writer, 2, 4)
    damage(layout.checkpoint_folder(writer.folder, 4))

    with caplog.at_level(logging.WARNING):
        found = load.newest_whole(writer.folder)

    assert found is not None
    assert found.manifest.step == 2
    assert "step-00000004" in caplog.text
    assert reason in caplog.text


def test_when_all_are_damaged_training_does_not_start_over(writer: Writer) -> None:
    _save(writer, 2)
    _flip(layout.checkpoint_folder(writer.folder, 2))

    with pytest.raises(DataError, match=r"no checkpoint .* is whole: step-00000002"):
        load.newest_whole(writer.folder)


def test_an_empty_folder_is_a_start_from_scratch(tmp_path: Path) -> None:
    assert load.newest_whole(tmp_path / "none") is None


def test_what_was_saved_is_read_back(writer: Writer, world: World) -> None:
    _save(writer, 7)
    found = load.newest_whole(writer.folder)
    assert found is not None
    state = {"model": {"weight": torch.zeros(64)}}

    load.read_into(state, found, world)

    assert state["model"]["weight"].tolist() == [7.0] * 64
    assert set(found.manifest.files) == {".metadata", "__0_0.distcp"}


def _start(writer: Writer) -> None:
    start = load.new_start(
        job=writer.uid, generation=writer.generation, attempt=writer.attempt, found=None, world_size=1
    )
    load.record_start(writer.folder, start)


def test_a_start_is_planned_if_the_one_before_has_saved_for_it(writer: Writer) -> None:
    def begin(*, saved: int | None = None, moving: bool = False) -> bool:
        """Starts, and saves a step if told to; whether the start is planned."""
        _, start = load.begin(writer.folder, job=writer.uid, generation=2, attempt=1, world_size=1)
        if saved is not None:
            replace(writer, start=start.start).save({"model": {}}, {"step": saved}, Shown(moving=moving))
        return start.planned

    assert not begin(saved=2, moving=True)
    assert begin()
    assert not begin(saved=3), "the second one has lost the steps that it may have made"
    assert not begin()


def test_an_older_generation_can_not_commit(writer: Writer) -> None:
    _start(writer)
    _save(writer, 2)
    _start(replace(writer, generation=3))
    _start(writer)  # its processes start once more, in the old generation
    before = _steps(writer.folder)

    with pytest.raises(FencedError, match=r"generation 2 must not commit .* generation 3 trains there"):
        _save(writer, 4)

    assert _steps(writer.folder) == before


def test_a_job_that_is_applied_anew_goes_on_and_the_deleted_one_can_not_commit(writer: Writer) -> None:
    """It counts generations from 1 again, and what is left of the other one may still run."""
    old, new = replace(writer, generation=7), replace(writer, uid="uid-2", generation=1)
    _start(old)
    _save(old, 2)
    _start(new)
    _save(new, 3)
    _start(old)

    with pytest.raises(FencedError, match=r"generation 7 must not commit .* generation 1 of another job \(UID uid-2\)"):
        _save(old, 4)

    _save(new, 4)
    assert _steps(writer.folder) == [4, 3, 2]


def test_retention_counts_whole_checkpoints_only(writer: Writer) -> None:
    _save(writer, 1, 2, 3)
    _truncate(layout.checkpoint_folder(writer.folder, 2))
    (layout.checkpoint_folder(writer.folder, 3) / "COMMITTED").unlink()

    retention.apply(writer.folder, keep=1, generation=2, newest=3)
    assert 1 in _steps(writer.folder), "the newest good one stays, though two newer ones are there"

    _save(replace(writer, keep=2), 4)
    assert _steps(writer.folder) == [4, 3, 2, 1]
    _save(replace(writer, keep=2), 5)
    assert _steps(writer.folder) == [5, 4]


def test_retention_does_not_count_what_was_refused_when_training_started(writer: Writer) -> None:
    _save(replace(writer, keep=3), 2, 4, 6)
    _flip(layout.checkpoint_folder(writer.folder, 6))  # its size is what it was

    _save(replace(writer, keep=2), 5)

    assert _steps(writer.folder) == [6, 5, 4]
    assert load.newest_whole(writer.folder).manifest.step == 5  # type: ignore[union-attr]


def test_leftovers_of_older_generations_are_cleaned(writer: Writer) -> None:
    for generation in (1, 2, 3):
        layout.temporary_folder(writer.folder, 5, generation).mkdir(parents=True)

    retention.clean(writer.folder, generation=2)

    assert [generation for generation, _ in layout.temporaries(writer.folder)] == [3]


def test_a_refused_checkpoint_is_replaced_when_training_passes_it_again(writer: Writer) -> None:
    _save(writer, 2)
    _flip(layout.checkpoint_folder(writer.folder, 2))

    _save(writer, 2)

    found = load.newest_whole(writer.folder)
    assert found is not None
    assert found.manifest.step == 2
    assert not layout.temporaries(writer.folder)


def test_a_torn_last_line_of_resumes_is_ignored(writer: Writer) -> None:
    _save(writer, 2)
    _start(writer)
    with (writer.folder / layout.RESUMES).open("a") as file:
        file.write('{"job": "uid-1", "generation": 9')

    assert layout.reign(writer.folder) == layout.Reign("uid-1", 2)
    _start(replace(writer, generation=3))
    assert layout.reign(writer.folder) == layout.Reign("uid-1", 3), "the next line is one of its own"
