"""A checkpoint from which training fails soon, twice, by itself, is passed over; what else happens is not held against it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from deepseek_trainer.checkpoint import layout, listing, load, probation, retention
from deepseek_trainer.checkpoint.save import Writer
from deepseek_trainer.distributed.world import World, join, lost_peer
from deepseek_trainer.errors import DataError, FencedError, PreemptedError, TrainerError, UnavailableError
from support.saver import state, writer

pytestmark = pytest.mark.training
NAN = TrainerError("the loss is nan after step 5; lower trainer.optimizer.learningRate")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with join("gloo", {}) as world:
        yield world


@pytest.fixture
def saves(world: World, tmp_path: Path) -> Writer:
    made = writer(tmp_path / "job", world, generation=1, keep=3)
    for step in (2, 4):
        made.save(state(step), {"step": step})
    return made


def _watched(found: load.Found, start: layout.Start, steps: int) -> AbstractContextManager[None]:
    def step() -> int:
        return found.manifest.step + steps

    return probation.watched(found.path, start.start, step, lost_peer, probation.record_in_folder)


def _train(folder: Path, error: BaseException, *, steps: int = 1, attempt: int = 1) -> int:
    """A start that makes some steps and ends so; the step that it went on from."""
    found, start = load.begin(folder, job="uid-1", generation=1, attempt=attempt, world_size=1)
    assert found is not None
    with pytest.raises(type(error)), _watched(found, start, steps):
        raise error
    return found.manifest.step


def test_two_starts_that_fail_soon_make_the_next_go_back_further(
    saves: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    assert [_train(saves.folder, NAN), _train(saves.folder, KeyError("layer")), _train(saves.folder, NAN)] == [4, 4, 2]

    found = load.newest_whole(saves.folder)
    assert found is not None
    assert found.passed_over == (
        "step-00000004: training failed soon in 2 starts from it, last after step 5: KeyError: 'layer'",
    )
    assert "skipping checkpoint=step-00000004 reason=" in caplog.text
    assert [(row["step"], row["state"]) for row in listing.checkpoints(saves.folder)] == [(4, "bad"), (2, "whole")]


@pytest.mark.parametrize(
    "error",
    [
        UnavailableError("rank 1: the volume is full"),
        FencedError("generation 2 trains there"),
        PreemptedError("SIGTERM"),
        DataError("a file has changed"),
        RuntimeError("[gloo] Connection closed by peer"),
        OSError(28, "No space left on device"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_comes_from_outside_is_not_held_against_it(saves: Writer, error: BaseException) -> None:
    assert [_train(saves.folder, error) for _ in range(3)] == [4, 4, 4]


def test_a_failure_after_many_steps_or_after_a_checkpoint_of_its_own_says_nothing(saves: Writer) -> None:
    for _ in range(3):
        assert _train(saves.folder, NAN, steps=probation.STEPS + 1) == 4
    found, start = load.begin(saves.folder, job="uid-1", generation=1, attempt=1, world_size=1)
    assert found is not None
    own = replace(saves, start=start.start)
    own.save(state(6), {"step": 6})
    with pytest.raises(TrainerError), _watched(found, start, 3):
        raise NAN
    assert probation.failures(found.path) == []


def test_a_new_checkpoint_of_the_same_step_begins_anew(saves: Writer) -> None:
    _train(saves.folder, NAN)
    _train(saves.folder, NAN)
    saves.save(state(4), {"step": 4})
    assert _train(saves.folder, NAN) == 4


def test_when_none_is_left_training_stops_until_somebody_trusts_one(saves: Writer) -> None:
    for _ in range(4):
        _train(saves.folder, NAN)
    with pytest.raises(DataError, match=r"step-00000004: training failed soon .* --trust STEP"):
        load.newest_whole(saves.folder)

    listing.trust(saves.folder, 4)

    assert _train(saves.folder, NAN) == 4
    with pytest.raises(DataError, match="no checkpoint of step 9"):
        listing.trust(saves.folder, 9)


def test_a_bad_one_doesn_t_count_towards_those_that_are_kept(saves: Writer) -> None:
    _train(saves.folder, NAN)
    _train(saves.folder, NAN)
    retention.apply(saves.folder, keep=1, generation=1, newest=4)
    assert [step for step, _ in layout.checkpoints(saves.folder)] == [4, 2]
