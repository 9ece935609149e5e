"""The commit protocol, stopped before each change that it makes to the volume: killed, cut from power, or overtaken.

One save is watched, call by call, by the kernel's word (support/stops.py). What a kill or a power cut would leave at
each of them is laid beside it, and training starts there: it finds the newest whole checkpoint, and the next save works.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from deepseek_trainer.checkpoint import layout, load
from deepseek_trainer.checkpoint.load import Found
from deepseek_trainer.distributed.world import World, join
from support import saver
from support.saver import state, writer
from support.stops import Disk, Stop, Traced

pytestmark = [pytest.mark.training, pytest.mark.timeout(400)]


class Saver:
    """Another process that saves, stopped at each change that it makes below a folder."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "volume"
        self.folder.mkdir()
        os.mkfifo(home / "pipe")
        self._pipe = os.open(home / "pipe", os.O_RDWR)
        pid = os.fork()
        if not pid:
            saver.run(home / "pipe", home / "log")
        self._traced = Traced(pid, self.folder)
        self._stops = self._traced.stops()

    def saves(self, folder: Path, step: int, *, generation: int = 1) -> Iterator[Stop]:
        """Each change of one save, before it is made; the last one's path ends with -saved or -refused."""
        os.write(self._pipe, f"{folder} {generation} {step}\n".encode())
        for stop in self._stops:
            yield stop
            if stop.path in (f"{folder}-saved", f"{folder}-refused"):
                return
        raise AssertionError(f"the saver has ended: {(self.folder.parent / 'log').read_text()}")

    def close(self) -> None:
        self._traced.kill()
        os.close(self._pipe)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory, where there is one: `Disk` plays the disk, and hundreds of syncs would each wait for a real one."""
    memory = Path("/dev/shm")
    usable = os.access(memory, os.W_OK)
    with tempfile.TemporaryDirectory(dir=memory if usable else tmp_path_factory.getbasetemp()) as made:
        yield Path(made)


@pytest.fixture(scope="module")
def other(home: Path) -> Iterator[Saver]:
    with closing(Saver(home)) as made:
        yield made


@pytest.fixture(scope="module")
def world(other: Saver) -> Iterator[World]:
    """Joined once the other process is forked: it would miss the group's threads."""
    with join("gloo", {}) as world:
        yield world


def _begin(folder: Path, *, generation: int) -> Found | None:
    return load.begin(folder, job="uid-1", generation=generation, attempt=1, world_size=1)[0]


def _prepared(folder: Path, world: World, *steps: int) -> None:
    """Checkpoints of these steps, and a start of generation 1 that goes on from the last."""
    for step in steps:
        writer(folder, world, generation=1, keep=100).save(state(step), {"step": step})
    _begin(folder, generation=1)


def _save(folder: Path, world: World, step: int, *, generation: int) -> None:
    writer(folder, world, generation=generation).save(state(step), {"step": step})


def _read(found: Found, world: World) -> float:
    read = state(0)
    load.read_into(read, found, world)
    (weight,) = set(read["model"]["weight"].tolist())
    assert set(read["optimizer"]["moment"].tolist()) == {weight / 2}
    return float(weight)


def _goes_on(folder: Path, world: World, *, least: int) -> int:
    """Starts where a crash has left the folder, and saves; the step that it went on from.

    Args:
        least: the newest checkpoint that nobody may lose.
    """
    found = _begin(folder, generation=2)
    assert found is not None
    step = found.manifest.step
    assert step >= least
    assert _read(found, world) == step
    assert not layout.temporaries(folder)
    _save(folder, world, step + 2, generation=2)
    found = load.newest_whole(folder)
    assert found is not None
    assert _read(found, world) == step + 2
    return step


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(f"{path.relative_to(folder)}\0".encode())
        digest.update(b"" if path.is_dir() else hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _torn(folder: Path, scratch: Path, disk: Disk) -> dict[str, Path]:
    """What three ends would leave now, each in a folder of its own."""
    shutil.copytree(folder, scratch / "killed")
    disk.after_cut(scratch / "cut")
    disk.after_cut_with_names(scratch / "cut, names kept")
    return {path.name: path for path in scratch.iterdir()}


@pytest.mark.parametrize("refused", [False, True], ids=["a new step", "over a refused one"])
def test_whatever_call_a_save_ends_at_the_newest_whole_checkpoint_is_found(
    refused: bool, other: Saver, world: World, home: Path
) -> None:
    folder = other.folder / ("refused" if refused else "new")
    _prepared(folder, world, 2, 4, 6) if refused else _prepared(folder, world, 1, 2, 4)
    if refused:  # 6 was damaged before this start, which went on from 4
        (folder / "step-00000006" / "manifest.json").write_text("{")
        _begin(folder, generation=1)
    calls: Counter[str] = Counter()
    seen: dict[str, set[str]] = {}
    came_from: dict[str, list[int]] = {}
    with closing(Disk(folder)) as disk:
        disk.trust()
        for number, stop in enumerate(other.saves(folder, 6)):
            calls[stop.call] += 1
            disk.seen(stop)
            scratch = home / f"{folder.name}-{number:03d}"
            scratch.mkdir()
            for end, left in _torn(folder, scratch, disk).items():
                known = seen.setdefault(end, set())
                if (mark := _fingerprint(left)) not in known:
                    known.add(mark)
                    came_from.setdefault(end, []).append(_goes_on(left, world, least=4))
            shutil.rmtree(scratch)
    print(dict(calls), {end: Counter(steps) for end, steps in came_from.items()})
    assert {"mkdir", "openat", "write", "fsync", "rename"} <= set(calls)
    for end, steps in came_from.items():
        assert steps[0] == 4, f"{end}: nothing is committed before the first change"
        assert steps[-1] == 6, f"{end}: what was said to be committed is on the disk"
        assert steps == sorted(steps), f"{end}: a checkpoint that was there is there later"


def test_a_save_that_a_newer_generation_overtakes_at_any_call_commits_nothing(
    other: Saver, world: World, home: Path
) -> None:
    """Generation 1 is frozen at each of its changes in turn; generation 2 starts, saves the same step; 1 wakes."""
    template = home / "template"
    _prepared(template, world, 2, 4)
    ends: list[str] = []
    while True:
        number = len(ends)
        folder = other.folder / f"overtaken-{number}"
        shutil.copytree(template, folder)
        committed, reached, last = False, False, ""
        for place, stop in enumerate(other.saves(folder, 6)):
            last = stop.path
            if place == number:
                reached = True
                committed = (folder / "step-00000006" / layout.COMMITTED).exists()
                found = _begin(folder, generation=2)
                assert found is not None
                assert found.manifest.step == (6 if committed else 4)
                if not committed:
                    _save(folder, world, 6, generation=2)
        if not reached:
            break
        ends.append(last.rpartition("-")[2])
        found = load.newest_whole(folder)
        assert found is not None
        assert found.manifest.generation == (1 if committed else 2), f"overtaken before change {number}"
        assert _read(found, world) == 6
        assert committed or ends[-1] == "refused", f"overtaken before change {number}"
        shutil.rmtree(folder)
    assert len(ends) > 20
