"""Saving while steps go on: what is saved, when it counts, and what becomes of training when it fails."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from deepseek_trainer.checkpoint import layout, load
from deepseek_trainer.checkpoint.interval import Interval
from deepseek_trainer.checkpoint.save import Writer
from deepseek_trainer.checkpoint.saver import Saver
from deepseek_trainer.checkpoint.staging import Staging
from deepseek_trainer.config import CheckpointSpec
from deepseek_trainer.contract import CheckpointInfo
from deepseek_trainer.distributed.world import World, join
from deepseek_trainer.errors import FencedError, UnavailableError
from deepseek_trainer.progress import Progress
from deepseek_trainer.pulse import PulseWriter
from deepseek_trainer.report import Reporter
from support import held_disk
from support.eventually import eventually
from support.procs import start_training
from support.runs import losses, report
from support.saver import author

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with join("gloo", {}) as world:
        yield world


@dataclass(frozen=True)
class Disk(Writer):
    """A volume that waits to be let on, and fails on demand."""

    free: threading.Event = field(default_factory=threading.Event)
    errors: list[Exception] = field(default_factory=list)

    rot: list[int] = field(default_factory=list)
    """Steps whose checkpoints are damaged once they are committed."""

    def _commit(self, *arguments: Any) -> CheckpointInfo:
        saved = super()._commit(*arguments)
        if saved.step in self.rot:
            with next(Path(saved.path).glob("*.distcp")).open("ab") as shard:
                shard.write(b"!")
        return saved

    def _write(self, temporary: Path, state: dict[str, Any]) -> dict[str, dict[str, Any]]:
        assert self.free.wait(30)
        (temporary / "half").write_bytes(b"written before it failed")
        if self.errors:
            error = self.errors.pop(0)
            self.world.agree(lambda: _raise(error), on=lambda world: True)
        (temporary / "half").unlink()
        return super()._write(temporary, state)


def _raise(error: Exception) -> None:
    raise error


class Run:
    """A training of one weight, whose value is the number of its step."""

    def __init__(self, world: World, folder: Path, **spec: Any) -> None:
        self.weight = torch.zeros(64)
        self.step = 0
        self.progress = Progress(Reporter(None), PulseWriter(None))
        self.disk = Disk(folder, **author(world, keep=10))
        self.spec = CheckpointSpec.model_validate({"directory": str(folder), "everySteps": 2} | spec)
        self.saver = Saver(self.spec, self.disk, self.progress, lambda: {"model": {"weight": self.weight}})

    @property
    def ledger(self) -> Any:
        return SimpleNamespace(step=self.step)

    def cut(self) -> dict[str, Any]:
        return {"step": self.step, "epoch": 0, "chain": f"chain-{self.step}"}

    def report(self) -> None:
        return None

    def make(self, steps: int) -> Run:
        for _ in range(steps):
            self.step += 1
            self.weight += 1
            self.saver.stepped(self, self.saver.signs())  # type: ignore[arg-type]  # all that it asks of a feed
        return self

    def finish(self) -> int:
        return self.saver.finish(self)  # type: ignore[arg-type]

    def lands(self) -> Run:
        """The save under way ends, and nobody has heard of it."""
        self.disk.free.set()
        eventually(lambda: self.saver.signs()[0] == 0, deadline_s=30, what="the save ends")
        return self


@pytest.fixture
def run(world: World, tmp_path: Path) -> Callable[..., Run]:
    return lambda **spec: Run(world, tmp_path / "ck", **spec)


def _steps(run: Run) -> list[int]:
    return [step for step, _ in layout.checkpoints(run.disk.folder)]


def test_steps_go_on_while_the_state_of_one_of_them_is_written(run: Callable[..., Run], world: World) -> None:
    started = run(everySteps=3).make(4)
    assert started.step == 4
    assert started.saver.signs() == (1.0, 0.0, 0.0)
    assert _steps(started) == []
    assert started.progress.report.phase == "training"

    started.lands().make(1)

    saved = started.progress.report.checkpoint
    assert saved is not None
    assert (saved.step, started.saver.saved_step) == (3, 3)
    assert saved.blocked_seconds is not None
    assert saved.blocked_seconds < saved.seconds
    found = load.newest_whole(started.disk.folder)
    assert found is not None
    assert found.manifest.ledger["chain"] == "chain-3"
    state = {"model": {"weight": torch.zeros(64)}}
    load.read_into(state, found, world)
    assert state["model"]["weight"].tolist() == [3.0] * 64, "not those of a later step"


def test_a_copy_shares_nothing_with_its_state_and_uses_its_memory_again() -> None:
    weight, staging = torch.ones(8), Staging()
    state = {"model": {"weight": weight}, "optimizer": {"groups": [{"lr": 0.5, "step": torch.tensor(3.0)}]}}

    first = staging.copy(state)
    weight += 1
    state["optimizer"]["groups"][0]["step"] += 1  # type: ignore[index]

    assert first["model"]["weight"].tolist() == [1.0] * 8
    assert first["optimizer"]["groups"][0] == {"lr": 0.5, "step": torch.tensor(3.0)}
    second = staging.copy(state)
    assert second["model"]["weight"].tolist() == [2.0] * 8
    assert second["model"]["weight"].data_ptr() == first["model"]["weight"].data_ptr()


def test_a_save_waits_for_the_one_before(run: Callable[..., Run]) -> None:
    started = run().make(2)
    release = threading.Timer(0.2, started.disk.free.set)
    release.start()
    started.make(2)  # step 4 is due
    assert started.saver.saved_step == 2
    assert started.finish() == 4
    assert _steps(started) == [4, 2], "step 4 is saved once"


def test_what_is_committed_is_read_again(run: Callable[..., Run]) -> None:
    started = run().make(2).lands().make(1)
    started.saver._verifier.wait()
    started.make(1)
    saved = started.progress.report.checkpoint
    assert saved is not None
    assert (saved.step, saved.verified) == (2, True)


def test_one_that_is_damaged_later_has_another_one_saved_at_once(run: Callable[..., Run]) -> None:
    started = run(everySteps=4)
    started.disk.rot.append(4)
    started.make(4).lands().make(1)
    started.saver._verifier.wait()
    started.make(1)
    failure = started.progress.report.checkpoint_failure
    assert failure is not None
    assert (failure.step, "bytes instead of" in failure.message) == (4, True)
    started.make(1).lands().make(1)
    assert started.progress.report.checkpoint_failure is None
    assert _steps(started)[-2:] == [7, 4] or _steps(started) == [8, 7, 4]


def test_by_the_clock_nothing_waits(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    started = run(everySteps=None, everySeconds=60)
    clock = [0.0]
    monkeypatch.setattr(started.saver, "_interval", Interval(started.spec, None, lambda: clock[0]))
    started.make(3)
    clock[0] = 61.0
    started.make(1)
    clock[0] = 200.0
    started.make(3)  # another one is due while the first is under way
    assert _steps(started) == []
    started.lands().make(1)
    saved = started.progress.report.checkpoint
    assert saved is not None
    assert (saved.step, saved.interval_seconds) == (4, 60.0)
    started.lands().finish()
    assert _steps(started) == [8, 4]


@pytest.mark.parametrize("mode", ["Async", "Sync"])
def test_nothing_is_left_undone_at_the_end(run: Callable[..., Run], mode: str) -> None:
    started = run(mode=mode)
    started.disk.free.set()
    assert started.make(3).finish() == 3
    assert _steps(started) == [3, 2]
    assert not layout.temporaries(started.disk.folder)


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("mode", ["Async", "Sync"])
def test_training_goes_on_when_a_save_fails(run: Callable[..., Run], mode: str) -> None:
    started = run(mode=mode)
    started.disk.errors.append(FULL)
    started.disk.free.set()
    started.make(2).lands().make(1)

    failure = started.progress.report.checkpoint_failure
    assert failure is not None
    assert (failure.step, failure.failures) == (2, 1)
    assert "No space left on device" in failure.message
    assert not layout.temporaries(started.disk.folder), "what was written may be what filled the disk"

    started.make(1).lands().make(1)
    assert started.progress.report.checkpoint_failure is None
    assert _steps(started) == [4]


@pytest.mark.parametrize(
    ("spec", "errors", "raised", "step"),
    [
        ({"onFailure": "Fail"}, [FULL], UnavailableError, 3),
        ({"maxFailures": 2}, [FULL] * 3, UnavailableError, 7),
        ({}, [FencedError("generation 2 trains there")], FencedError, 3),
    ],
)
def test_training_ends_when_it_may_not_go_on(
    run: Callable[..., Run], spec: dict[str, Any], errors: list[Exception], raised: type[Exception], step: int
) -> None:
    started = run(**spec)
    started.disk.errors.extend(errors)
    started.disk.free.set()

    def train() -> None:
        for _ in range(20):
            started.make(1).lands()

    with pytest.raises(raised):
        train()

    assert started.step == step, "at the boundary after the save has ended"
    assert started.progress.report.checkpoint_failure is not None


def test_the_last_save_may_not_fail(run: Callable[..., Run]) -> None:
    started = run(everySteps=100).make(3)
    started.disk.errors.append(FULL)
    started.disk.free.set()
    with pytest.raises(UnavailableError, match="No space left"):
        started.finish()


@pytest.mark.timeout(400)
def test_a_peer_that_is_lost_while_a_save_is_under_way_ends_the_others(
    config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])  # where modules of tests are found
    held = tmp_path / "held"
    held.touch()
    running = start_training(
        config(steps=100_000),
        world_size=2,
        folder=tmp_path / "run",
        environ={"HELD_DISK": str(held)},
        module=held_disk.__name__,
    )
    ended = running.wait(300)

    assert [rank.exit_code for rank in ended] == [69, -9], running.outputs()
    assert "left the save of step 4, which is still under way" in ended[0].output
    assert max(losses(ended[0].output)) >= held_disk.KILLED_AT - 1, "steps went on while step 4 was written"
    assert layout.temporaries(tmp_path / "checkpoints")
    assert "checkpoint" not in report(tmp_path / "run")
    assert load.newest_whole(tmp_path / "checkpoints") is None
