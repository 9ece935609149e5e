"""Preparers that are killed, and volumes that are full or can't be read: what is left is whole, and the error says what to do."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deepseek_trainer.contract import ExitCode
from deepseek_trainer.data import store
from deepseek_trainer.data.prepare import prepare
from support.corpora import config, write
from support.eventually import eventually
from support.procs import start_training

pytestmark = [pytest.mark.training, pytest.mark.timeout(300)]

PIECE_BYTES = 2**14
PREPARE = """
import sys
from deepseek_trainer.config import RunConfig
from deepseek_trainer.data import prepare, processes

if __name__ == "__main__":
    run = RunConfig.model_validate_json(sys.argv[1])
    execute = lambda work, todo: processes.run(work, todo, processes=2)
    print(prepare.prepare(run, {}, execute, piece_bytes=int(sys.argv[2])))
"""
"""What a training process does first, with two processes whatever the machine has."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Some megabytes of lines, in a hundred parts."""
    generator = random.Random(7)
    words = [f"w{number}" for number in range(3000)]
    for name in ("a.jsonl", "b.jsonl.gz", "c.parquet"):
        write(
            tmp_path / "data" / name,
            [" ".join(generator.choices(words, k=60)) for _ in range(2000)],
            rows_per_group=100,
        )
    return tmp_path / "data"


def start(data: Path, cache: Path) -> subprocess.Popen[str]:
    told = config(data, cache).model_dump_json(by_alias=True)
    command = [sys.executable, "-c", PREPARE, told, str(PIECE_BYTES)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def fingerprint(folder: Path) -> str:
    assert store.check(folder) is None
    return store.open_store(folder).info.fingerprint


def stores(cache: Path) -> list[Path]:
    """What could be taken for a store."""
    return [child for child in cache.glob("*") if not child.name.startswith(".") and child.name != "known"]


def parts_in(cache: Path) -> list[Path]:
    return list(cache.glob(".*/*.npz"))


def await_parts(preparer: subprocess.Popen[str], cache: Path, count: int) -> None:
    """Returns when there are so many, or the preparer has ended."""
    eventually(lambda: len(parts_in(cache)) >= count or preparer.poll() is not None, deadline_s=120, interval_s=0.01)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_preparers_killed_at_any_moment_leave_a_store_that_is_the_same(data: Path, tmp_path: Path) -> None:
    undisturbed = fingerprint(prepare(config(data, tmp_path / "undisturbed"), {}, piece_bytes=PIECE_BYTES))
    generator = random.Random(11)
    cache = tmp_path / "stores"
    left: set[int] = set()
    for moment in range(5):
        preparer = start(data, cache)
        await_parts(preparer, cache, len(parts_in(cache)) + 12 * moment)
        time.sleep(generator.random() / 4)  # any moment
        left.update(children(preparer.pid) if preparer.poll() is None else [])
        preparer.kill()
        preparer.communicate()
        assert all(store.check(folder) is None for folder in stores(cache)), "what has the name of a store is whole"
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), deadline_s=30)

    racing = [start(data, cache) for _ in range(2)]
    said = {preparer.communicate(timeout=200)[0].splitlines()[-1] for preparer in racing}

    assert [preparer.returncode for preparer in racing] == [0, 0]
    (made,) = said
    assert fingerprint(Path(made)) == undisturbed
    assert [folder.name for folder in stores(cache)] == [Path(made).name]
    assert not list(cache.glob(".*")), "nothing is left of all those preparations"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    target = tmp_path / "small"
    target.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(target)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount: {mounted.stderr.strip()}")
    yield target
    subprocess.run(["umount", str(target)], check=True)


def trained(folder: Path, run: dict[str, Any]) -> tuple[int, str]:
    """How a training process ends, and its output."""
    ended = start_training(run, world_size=1, folder=folder).wait()[0]
    assert "Traceback" not in ended.output
    return ended.exit_code, ended.output


def run_config(data: Path, cache: Path, **changes: Any) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(config(data, cache, **changes).model_dump_json(by_alias=True, exclude_none=True))
    return told | {"backend": "gloo"}


def test_a_disk_that_fills_up_ends_the_job_and_is_gone_on_with(data: Path, tmp_path: Path, small_disk: Path) -> None:
    cache = small_disk / "stores"
    (small_disk / "ballast").write_bytes(bytes(2 * 2**20))

    code, output = trained(tmp_path / "full", run_config(data, cache))

    assert code == ExitCode.UNAVAILABLE, output
    assert f"dataCache {cache}: No space left on device" in output
    assert "enlarge the volume, or remove what is not needed" in output
    assert not stores(cache)

    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert store.check(prepare(config(data, cache), {})) is None


@pytest.mark.parametrize(
    ("closed", "says"),
    [
        (
            "data/a.jsonl",
            "a.jsonl: Permission denied; see that the volume is mounted and readable for the workers' user",
        ),
        ("data", "data: Permission denied; see that the volume is mounted and readable for the workers' user"),
        ("stores", "stores: Permission denied; is the volume mounted, and writable for the workers' user?"),
    ],
)
def test_a_volume_that_can_not_be_read_or_written_is_named(closed: str, says: str) -> None:
    if os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("needs root, to become somebody who may not read")
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        folder.chmod(0o755)
        write(folder / "data" / "a.jsonl")
        (folder / "stores").mkdir()
        (folder / "stores").chmod(0o777)
        (folder / closed).chmod(0)
        told = config(folder / "data", folder / "stores").model_dump_json(by_alias=True)
        command = [sys.executable, "-c", PREPARE, told, str(PIECE_BYTES)]
        ended = subprocess.run(
            ["setpriv", "--reuid=65534", "--clear-groups", *command], capture_output=True, text=True, check=False
        )
    assert says in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "a.parquet: not a whole Parquet file"),
        (lambda path: path.rename(path.with_name("a.csv")), "no .txt .json .jsonl .parquet"),
    ],
)
def test_bad_data_ends_the_job_for_the_right_cause(tmp_path: Path, spoil: Any, says: str) -> None:
    spoil(write(tmp_path / "data" / "a.parquet"))
    code, output = trained(tmp_path / "run", run_config(tmp_path / "data", tmp_path / "stores"))
    assert code == ExitCode.DATA_ERROR, output
    assert says in output
    assert not stores(tmp_path / "stores")


def test_what_was_left_out_is_reported(tmp_path: Path) -> None:
    write(tmp_path / "data" / "a.jsonl", ["Some text to be trained on. " * 40])
    (tmp_path / "data" / "b.jsonl").write_text("{broken\n")
    told = run_config(tmp_path / "data", tmp_path / "stores", onBadRecord="Quarantine")
    told["trainer"]["training"] |= {"sequenceLength": 16, "globalBatchSize": 2}
    code, output = trained(tmp_path / "run", told)
    assert code == 0, output
    report = json.loads((tmp_path / "run" / "progress.json").read_bytes())
    assert report["data"]["quarantined"] == 1
    assert report["data"]["examples"][0].startswith("b.jsonl, line 1: not JSON")
