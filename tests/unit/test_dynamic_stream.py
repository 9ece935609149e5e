"""A stream's files: their order, what the ledger remembers of them, and what breaks the rule that keeps it the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deepseek_trainer.data.dynamic.stream import Journal
from deepseek_trainer.errors import DataError

LINE = json.dumps({"text": "x" * 100}) + "\n"
SHARD = 512


def put(folder: Path, name: str, lines: int = 8) -> None:
    target = folder / name
    target.parent.mkdir(exist_ok=True)
    hidden = target.parent / f".{target.name}"
    hidden.write_text(LINE * lines)
    hidden.rename(target)


def journal(folder: Path, files: dict[str, Any] | None = None) -> Journal:
    return Journal(folder, folder / "cache", SHARD, json.loads(json.dumps(files or {})))


def test_files_have_their_place_in_the_order_of_their_names(tmp_path: Path) -> None:
    seen = journal(tmp_path)
    assert seen.look() == []
    put(tmp_path, "b/2.jsonl")
    put(tmp_path, "a.jsonl", lines=3)
    put(tmp_path, "b/10.tmp")
    put(tmp_path, "b-1.jsonl")
    found = seen.look()
    assert [(one.file.name, one.first, one.after) for one in found] == [
        ("a.jsonl", 0, 1),
        ("b/2.jsonl", 1, 3),
        ("b-1.jsonl", 3, 5),
    ]
    assert (seen.look(), seen.ended) == ([], False)
    put(tmp_path, "c.jsonl")
    (tmp_path / "_SUCCESS").touch()
    assert [one.first for one in seen.look()] == [5]
    assert seen.ended


def test_the_next_journal_goes_on_where_the_ledger_is(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        put(tmp_path, f"{name}.jsonl")
    first = journal(tmp_path)
    assert [one.after for one in first.look()] == [2, 4, 6, 8]
    files = first.watermark(low=3, top=5)
    assert (files["count"], files["last"], files["leases"]) == (1, "a.jsonl", 2)
    assert [name for name, _ in files["begun"]] == ["b.jsonl", "c.jsonl"]
    second = journal(tmp_path, files)
    assert [(one.file.name, one.first) for one in second.look()] == [("b.jsonl", 2), ("c.jsonl", 4), ("d.jsonl", 6)]
    assert second.watermark(low=3, top=5) == files
    assert second.watermark(low=8, top=8) == first.watermark(low=8, top=8)
    assert [file.name for file in second.files()] == ["a.jsonl", "b.jsonl", "c.jsonl", "d.jsonl"]


def test_what_sorts_before_a_file_that_was_there_first_is_never_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder is not listed in one moment: the first listing has b alone, though a was there before it."""
    seen = journal(tmp_path)
    put(tmp_path, "a.jsonl")
    put(tmp_path, "b.jsonl")
    listings = [(["b.jsonl"], False)]
    real = seen._list
    monkeypatch.setattr(seen, "_list", lambda: listings.pop() if listings else real())
    assert [one.file.name for one in seen.look()] == ["a.jsonl", "b.jsonl"]


def remove(folder: Path) -> None:
    (folder / "b.jsonl").unlink()


def grow(folder: Path) -> None:
    with (folder / "b.jsonl").open("a") as file:
        file.write(LINE)


BROKEN: list[tuple[Callable[[Path], None], str]] = [
    (lambda folder: put(folder, "aa.jsonl"), "aa.jsonl turned up late.*give it one that sorts last"),
    (remove, "b.jsonl is gone.*put it back"),
    (grow, "b.jsonl (has changed since it arrived|had 904 bytes, now 1017)"),
]


@pytest.mark.parametrize(("break_it", "message"), BROKEN)
def test_what_breaks_the_rule_is_named(tmp_path: Path, break_it: Callable[[Path], None], message: str) -> None:
    for name in ("a", "b", "c"):
        put(tmp_path, f"{name}.jsonl")
    seen = journal(tmp_path)
    seen.look()
    files = seen.watermark(low=2, top=6)
    break_it(tmp_path)
    with pytest.raises(DataError, match=message):
        seen.look()
    with pytest.raises(DataError, match=message):
        journal(tmp_path, files).look()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: put(folder, "aa.jsonl"), "1 of its files turned up late, aa.jsonl perhaps"),
        (remove, "of the 2 files up to b.jsonl, which are trained, 1 are gone"),
        (grow, "one has another name or size now"),
    ],
)
def test_what_is_trained_stays_as_it_is(tmp_path: Path, break_it: Callable[[Path], None], message: str) -> None:
    for name in ("a", "b", "c"):
        put(tmp_path, f"{name}.jsonl")
    seen = journal(tmp_path)
    seen.look()
    files = seen.watermark(low=4, top=4)
    assert (files["count"], files["begun"]) == (2, [])
    break_it(tmp_path)
    with pytest.raises(DataError, match=message):
        journal(tmp_path, files).look()


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a stream is a folder: mount the volume"):
        journal(tmp_path / "nowhere").look()
