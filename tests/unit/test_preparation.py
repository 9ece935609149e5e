"""A store is the same whoever made its parts, in what order and how often; and it is there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from deepseek_trainer.data import parts, processes, store
from deepseek_trainer.data.parts import Part
from deepseek_trainer.data.prepare import prepare
from deepseek_trainer.errors import UnavailableError
from support.corpora import TEXTS, config, texts_of, write

PIECE_BYTES = 60
Work = Callable[[Part], None]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Some files whose times are long past."""
    folder = tmp_path / "data"
    for path in (write(folder / "a.jsonl"), write(folder / "b.parquet"), write(folder / "c.json.gz")):
        os.utime(path, (1e9, 1e9))
    return folder


@pytest.fixture
def undisturbed(data: Path, tmp_path: Path) -> str:
    """The fingerprint of the store when nothing goes wrong."""
    return fingerprint(prepare(config(data, tmp_path / "undisturbed"), {}, piece_bytes=PIECE_BYTES))


def fingerprint(folder: Path) -> str:
    assert store.check(folder) is None
    return store.open_store(folder).info.fingerprint


def none(work: Work, todo: Sequence[Part]) -> None:
    """An executor that does nothing."""


def backwards_and_twice(work: Work, todo: Sequence[Part]) -> None:
    for part in [*reversed(todo), *todo]:
        work(part)


def every_other(work: Work, todo: Sequence[Part]) -> None:
    for part in todo:
        if part.number % 2 == 0:
            work(part)


def damaging(work: Work, todo: Sequence[Part]) -> None:
    """Of a disk that loses what was written, but only once."""
    for number, part in enumerate(todo):
        work(part)
        if part.path.with_suffix(".seen").exists():
            continue
        part.path.with_suffix(".seen").touch()
        content = bytearray(part.path.read_bytes())
        content[len(content) * (number % 4) // 4] ^= 0xFF
        part.path.write_bytes(content[: len(content) - 7 * (number % 3)])


@pytest.mark.parametrize("execute", [none, backwards_and_twice, every_other, damaging])
def test_whoever_makes_the_parts_the_store_is_the_same(
    data: Path, tmp_path: Path, undisturbed: str, execute: processes.Executor
) -> None:
    made = prepare(config(data, tmp_path / "s"), {}, execute, piece_bytes=PIECE_BYTES)
    assert fingerprint(made) == undisturbed
    assert texts_of(store.open_store(made)) == [*TEXTS] * 3


def test_a_preparation_that_was_stopped_goes_on_where_it_was(data: Path, tmp_path: Path, undisturbed: str) -> None:
    wanted = config(data, tmp_path / "s")

    def stopped(work: Work, todo: Sequence[Part]) -> None:
        every_other(work, todo)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(wanted, {}, stopped, piece_bytes=PIECE_BYTES)
    assert not visible(tmp_path / "s")
    left: list[Part] = []

    def noting(work: Work, todo: Sequence[Part]) -> None:
        left.extend(todo)
        processes.run(work, todo, processes=1)

    assert fingerprint(prepare(wanted, {}, noting, piece_bytes=PIECE_BYTES)) == undisturbed
    assert left
    assert {part.number % 2 for part in left} == {1}


def test_of_two_preparers_the_slower_one_takes_the_faster_one_s_store(
    data: Path, tmp_path: Path, undisturbed: str
) -> None:
    wanted = config(data, tmp_path / "s")
    faster: list[Path] = []

    def overtaken(work: Work, todo: Sequence[Part]) -> None:
        work(todo[0])
        faster.append(prepare(wanted, {}, piece_bytes=PIECE_BYTES))

    assert [prepare(wanted, {}, overtaken, piece_bytes=PIECE_BYTES)] == faster
    assert fingerprint(faster[0]) == undisturbed
    assert sorted(child.name for child in (tmp_path / "s").iterdir()) == sorted([faster[0].name, "known"])


def test_one_whose_folder_is_cleared_away_and_made_anew_by_a_third_one_takes_the_store_too(
    data: Path, tmp_path: Path
) -> None:
    wanted = config(data, tmp_path / "s")
    faster: list[Path] = []

    def overtaken(work: Work, todo: Sequence[Part]) -> None:
        faster.append(prepare(wanted, {}, piece_bytes=PIECE_BYTES))
        Path(todo[0].folder).mkdir()
        raise FileNotFoundError(todo[0].folder)  # of a process that finds no tokenizer in it

    assert [prepare(wanted, {}, overtaken, piece_bytes=PIECE_BYTES)] == faster
    assert not hidden(tmp_path / "s")


def test_one_whose_folder_is_cleared_away_while_it_writes_the_store_takes_the_other_one(
    data: Path, tmp_path: Path, undisturbed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = config(data, tmp_path / "s")
    faster: list[Path] = []
    write_files = store._write_files

    def overtaken(folder: Path, *rest: Any) -> None:
        monkeypatch.setattr(store, "_write_files", write_files)
        faster.append(prepare(wanted, {}, piece_bytes=PIECE_BYTES))
        write_files(folder, *rest)

    monkeypatch.setattr(store, "_write_files", overtaken)
    assert [prepare(wanted, {}, piece_bytes=PIECE_BYTES)] == faster
    assert fingerprint(faster[0]) == undisturbed
    assert not hidden(tmp_path / "s")


def test_whoever_has_the_store_clears_away_what_killed_preparers_left(data: Path, tmp_path: Path) -> None:
    wanted, cache, left = config(data, tmp_path / "s"), tmp_path / "s", tmp_path / "left"

    def killed(work: Work, todo: Sequence[Part]) -> None:
        every_other(work, todo)
        half = Path(todo[0].folder) / ".store-half"  # as of one that wrote the store already
        half.mkdir()
        (half / "tokens.bin").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(wanted, {}, killed, piece_bytes=PIECE_BYTES)
    (work,) = hidden(cache)
    shutil.copytree(work, left)

    made = prepare(wanted, {}, piece_bytes=PIECE_BYTES)
    assert not hidden(cache)

    shutil.copytree(left, work)  # killed before it cleared away
    shutil.copytree(left, work.with_name(f"{work.name}-1234"))  # and while it did
    assert prepare(wanted, {}, piece_bytes=PIECE_BYTES) == made
    assert not hidden(cache)


def test_files_that_did_not_change_are_not_read_again(data: Path, tmp_path: Path) -> None:
    wanted = config(data, tmp_path / "s")
    made = prepare(wanted, {})
    (note,) = (tmp_path / "s" / "known").iterdir()
    note.write_text(json.dumps({"store": "another"}))
    os.utime(note, (note.stat().st_mtime + 60,) * 2)  # as if the files had been at rest for a minute
    shutil.copytree(made, tmp_path / "s" / "another")

    assert prepare(wanted, {}).name == "another", "the note is believed"
    (data / "a.jsonl").touch()
    assert prepare(wanted, {}) == made, "and not, once a file has changed"


def test_files_that_were_moved_and_touched_are_the_same_data(data: Path, tmp_path: Path) -> None:
    made = prepare(config(data, tmp_path / "s"), {})
    written = (made / "manifest.json").stat().st_mtime_ns
    shutil.copytree(data, tmp_path / "elsewhere")
    for path in (tmp_path / "elsewhere").iterdir():
        path.touch()

    assert prepare(config(tmp_path / "elsewhere", tmp_path / "s"), {}) == made
    assert (made / "manifest.json").stat().st_mtime_ns == written


def test_files_of_the_same_size_and_time_with_other_text_are_other_data(data: Path, tmp_path: Path) -> None:
    made = prepare(config(data, tmp_path / "s"), {})
    content = (data / "a.jsonl").read_bytes()
    (data / "a.jsonl").write_bytes(content.replace(b"Data", b"Text"))
    os.utime(data / "a.jsonl", (1e9, 1e9))

    other = prepare(config(data, tmp_path / "s"), {})

    assert other != made
    assert texts_of(store.open_store(other))[0] == "Text is read once."


def test_a_full_disk_is_named_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    with (data / "huge.jsonl").open("wb") as file:
        file.truncate(shutil.disk_usage(tmp_path).free * 4)
    try:
        with pytest.raises(
            UnavailableError, match=r"No space left on device; a token store needs .* enlarge the volume"
        ):
            prepare(config(data, tmp_path / "s"), {})
    finally:
        (data / "huge.jsonl").unlink()
    assert not visible(tmp_path / "s")


@pytest.mark.parametrize("quota", ["150000 100000", "max 100000", None])
def test_no_more_processes_than_the_quota_pays_for(tmp_path: Path, quota: str | None) -> None:
    if quota:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    expected = min(2, len(os.sched_getaffinity(0))) if quota and quota.startswith("1") else len(os.sched_getaffinity(0))
    assert processes.processors(tmp_path) == expected


def test_parts_do_not_depend_on_the_volume_s_mount(data: Path, tmp_path: Path, undisturbed: str) -> None:
    shutil.copytree(data, tmp_path / "elsewhere")
    made = prepare(config(tmp_path / "elsewhere", tmp_path / "s"), {}, piece_bytes=PIECE_BYTES)
    assert fingerprint(made) == undisturbed
    assert made.name == next((tmp_path / "undisturbed").glob("[!k.]*")).name


def visible(cache: Path) -> list[str]:
    """What could be taken for a store."""
    return [child.name for child in cache.iterdir() if not child.name.startswith(".") and child.name != "known"]


def hidden(cache: Path) -> list[Path]:
    """What preparers work at, or have left."""
    return list(cache.glob(".*"))


def test_a_part_is_what_anybody_makes_of_it(data: Path, tmp_path: Path) -> None:
    made: list[str] = []

    def compared(work: Work, todo: Sequence[Part]) -> None:
        for part in todo:
            work(part)
            first = part.path.read_bytes()
            part.path.unlink()
            parts.make(part)
            made.append(hashlib.sha256(first).hexdigest())
            assert part.path.read_bytes() == first

    prepare(config(data, tmp_path / "s"), {}, compared, piece_bytes=PIECE_BYTES)
    assert len(set(made)) > 5
