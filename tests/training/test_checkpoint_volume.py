"""A volume that flips bits, is full or forbids: the newest whole checkpoint, or a loud stop that says what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from deepseek_trainer.checkpoint import layout, load, retention
from deepseek_trainer.checkpoint.save import Writer
from deepseek_trainer.distributed.world import World, join
from deepseek_trainer.errors import UnavailableError
from support.saver import state, writer

pytestmark = pytest.mark.training

FILES = ("manifest.json", "COMMITTED", ".metadata", "__0_0.distcp")
EVERY = 97
"""Bytes between two that are damaged; a prime, so that it meets all parts of a record."""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with join("gloo", {}) as world:
        yield world


def _save(with_: Writer, *steps: int) -> None:
    for step in steps:
        with_.save(state(step), {"step": step})


@pytest.mark.parametrize("name", FILES)
def test_no_flipped_bit_and_no_cut_passes_for_whole(world: World, tmp_path: Path, name: str) -> None:
    _save(writer(tmp_path, world, generation=1), 2, 4)
    file = layout.checkpoint_folder(tmp_path, 4) / name
    content = file.read_bytes()
    damaged = [
        content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]
        for place in range(0, len(content), EVERY)
    ]
    damaged += [content[:length] for length in range(0, len(content), 2 * EVERY)]
    assert len(damaged) > 1
    for torn in damaged:
        file.write_bytes(torn)
        found = load.newest_whole(tmp_path)
        assert found is not None
        assert found.manifest.step == 2
    file.write_bytes(content)
    found = load.newest_whole(tmp_path)
    assert found is not None
    assert found.manifest.step == 4


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full_anywhere_in_a_save_loses_nothing(world: World, small_disk: Path) -> None:
    folder = small_disk / "job"
    saves = writer(folder, world, generation=1)
    _save(saves, 2, 4)
    filler, refused, said = small_disk / "filler", 0, ""
    for free_kib in range(0, 40, 4):
        shutil.rmtree(layout.checkpoint_folder(folder, 6), ignore_errors=True)
        retention.clean(folder, generation=1)
        free = shutil.disk_usage(small_disk).free - free_kib * 1024
        filler.write_bytes(b"\0" * free)
        try:
            _save(replace(saves, keep=3), 6)
        except UnavailableError as error:
            refused += 1
            said, newest = str(error), 4
        else:
            newest = 6
        found = load.newest_whole(folder)
        assert found is not None
        assert found.manifest.step == newest
        filler.unlink()
    assert refused > 3
    assert "No space left" in said
    assert newest == 6, "with room for it the next one is saved"


def _unreadable(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").chmod(0)


def _unreadable_shard(checkpoint: Path) -> None:
    (checkpoint / "__0_0.distcp").chmod(0)


@pytest.mark.parametrize("forbid", [_unreadable, _unreadable_shard])
def test_what_may_not_be_read_is_not_taken_for_damaged(
    world: World, tmp_path: Path, forbid: Callable[[Path], None]
) -> None:
    _save(writer(tmp_path / "job", world, generation=1), 2, 4)
    forbid(layout.checkpoint_folder(tmp_path / "job", 4))
    said = _as_nobody(tmp_path, lambda: load.newest_whole(tmp_path / "job"))
    assert said.startswith("UnavailableError")
    assert "Permission denied" in said


def test_a_folder_that_may_not_be_written_keeps_what_it_has(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    _save(writer(folder, world, generation=1), 2)
    said = _as_nobody(
        tmp_path, lambda: load.begin(folder, job="uid-1", generation=2, attempt=1, world_size=1), writable=False
    )
    assert "Permission denied" in said
    assert [step for step, _ in layout.checkpoints(folder)] == [2]


def _as_nobody(folder: Path, work: Callable[[], object], *, writable: bool = True) -> str:
    """What another user gets who has the folder for his own: the type and text of the error."""
    nobody = 65534
    answer = folder / "answer"
    answer.touch()
    answer.chmod(0o666)
    for parent in folder.parents:
        if os.access(parent, os.W_OK) and os.geteuid() == 0 and parent.stat().st_mode & 0o077 == 0:
            parent.chmod(0o711)
    if os.geteuid() == 0 and writable:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, nobody, nobody)
    elif os.geteuid():
        (folder / "job").chmod(0o500)
    folder.chmod(0o755)
    pid = os.fork()
    if not pid:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(nobody)
                os.setuid(nobody)
            work()
        except BaseException as error:
            answer.write_text(f"{type(error).__name__}: {error}")
        os._exit(0)
    os.waitpid(pid, 0)
    return answer.read_text()
