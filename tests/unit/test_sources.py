"""What is read: every format gives the same documents, cut anywhere; what can't be read is named, or left out and listed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest
from deepseek_trainer.config import DataSpec, TokenizerSpec
from deepseek_trainer.contract import ExitCode
from deepseek_trainer.data import documents, parts, sources, store
from deepseek_trainer.data.parts import Part
from deepseek_trainer.data.prepare import prepare
from deepseek_trainer.errors import DataError, TrainerError
from support.corpora import TEXTS, config, texts_of, write

FORMATS = ("a.jsonl", "a.jsonl.gz", "a.json", "a.array.json", "a.json.gz", "a.parquet", "a.lmdb")


def read(path: Path, *, piece_bytes: int = 2**20, **data: Any) -> list[str]:
    """The texts of a source, cut into pieces of about so many bytes."""
    spec = DataSpec.model_validate({"path": str(path), **data})
    reading = documents.reading(spec, TokenizerSpec(), None)
    pieces = sources.pieces(sources.find(spec, {}, cache=Path("/nowhere")), piece_bytes)
    return [text for n, piece in enumerate(pieces) for text in parts.texts(Part(n, piece, reading, "/nowhere"))]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_alike(tmp_path: Path, name: str) -> None:
    assert read(write(tmp_path / name)) == list(TEXTS)


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_file_has_no_documents(tmp_path: Path, name: str) -> None:
    assert read(write(tmp_path / name, [])) == []


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("piece_bytes", [1, 2, 7, 30, 1000])
def test_lines_are_read_once_wherever_they_are_cut(
    tmp_path: Path, line_end: str, ended: bool, piece_bytes: int
) -> None:
    lines = line_end.join(json.dumps({"text": text}, ensure_ascii=False) for text in TEXTS)
    (tmp_path / "a.jsonl").write_bytes((lines + line_end * ended).encode())
    assert read(tmp_path / "a.jsonl", piece_bytes=piece_bytes) == list(TEXTS)


@pytest.mark.parametrize("piece_bytes", [1, 5, 16, 1000])
def test_a_text_is_cut_between_lines_and_nothing_of_it_is_lost(tmp_path: Path, piece_bytes: int) -> None:
    text = "\n".join(TEXTS * 2)
    (tmp_path / "a.txt").write_text(text)
    pieces = read(tmp_path / "a.txt", piece_bytes=piece_bytes)
    assert "".join(pieces) == text
    assert all(piece.endswith("\n") for piece in list(filter(None, pieces))[:-1])


def test_a_text_in_pieces_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One line.\n" * 5)
    (tmp_path / "b.txt").write_text("Another.")
    made = prepare(config(tmp_path, tmp_path / "stores"), {}, piece_bytes=12)
    assert texts_of(store.open_store(made)) == ["One line.\n" * 5, "Another."]


def test_files_are_read_in_the_order_of_their_names_below_the_folder(tmp_path: Path) -> None:
    write(tmp_path / "b" / "1.parquet", ["third"])
    write(tmp_path / "a" / "z.jsonl", ["second"])
    write(tmp_path / "a" / "b.json", ["first"])
    (tmp_path / "c.csv").write_text("not read")
    assert read(tmp_path) == ["first", "second", "third"]


def test_fields_are_joined(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": "One", "b": "two"}\n{"b": "four", "a": "Three"}\n')
    assert read(tmp_path, textFields=["a", "b"], separator=" </s> ") == ["One </s> two", "Three </s> four"]


def test_lmdb_is_read_once_wherever_it_is_cut(tmp_path: Path) -> None:
    texts = [f"Text {number}" for number in range(300)]
    write(tmp_path / "a.lmdb", texts)
    shutil.copy(tmp_path / "a.lmdb" / "data.mdb", tmp_path / "single.lmdb")
    for path in (tmp_path / "a.lmdb", tmp_path / "single.lmdb"):
        for piece_bytes in (1, 1000, 2**20):
            assert read(path, piece_bytes=piece_bytes) == texts


def test_lmdb_may_have_plain_texts_and_bad_ones(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "a.lmdb")) as opened, opened.begin(write=True) as transaction:
        for key, value in ((b"b", b"caf\xe9"), (b"a", b"First"), (b"c", b"{broken"), (b"d", "Größe".encode())):
            transaction.put(key, value)
    made = store.open_store(prepare(config(tmp_path / "a.lmdb", tmp_path / "s", onBadRecord="Quarantine"), {}))
    assert texts_of(made) == ["First", "Größe"]
    assert [entry["place"] for entry in store.quarantined(made.folder, 5)] == ["entry 2", "entry 3"]


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfText")
    assert read(tmp_path) == ["Text"]


BAD = [
    pytest.param("a.jsonl", b'{"text": "fine"}\n{broken\n', "line 2: not JSON: ", id="not JSON"),
    pytest.param(
        "a.jsonl", b'\n\n{"body": "x"}\n', "line 3: no text in field 'text'; name the right one", id="no field"
    ),
    pytest.param("a.jsonl", b'{"text": 5}\n', "line 1: no text in field", id="a number"),
    pytest.param("a.jsonl", b"[1]\n", "line 1: no text in field", id="a list"),
    pytest.param("a.jsonl", b'{"text": "caf\xe9"}\n', "line 1: byte 13 of the line is not UTF-8", id="latin-1"),
    pytest.param("a.jsonl", b'{"text": "\\ud800"}\n', "line 1: character 0 of the text is half a surr", id="surrogate"),
    pytest.param("a.jsonl", b"[" * 100_000 + b"\n", "line 1: JSON that can't be read", id="nested without end"),
    pytest.param("a.json", b'[{"text": "fine"}, {"text": ', "record 2: not JSON", id="a torn array"),
    pytest.param("a.txt", b"caf\xe9", "byte 3 is not UTF-8; convert the file", id="a text in latin-1"),
]


@pytest.mark.parametrize(("name", "content", "says"), BAD)
def test_a_bad_record_is_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as refused:
        read(tmp_path)
    assert says in str(refused.value)
    assert str(tmp_path / name) in str(refused.value)


@pytest.mark.parametrize(("name", "content", "says"), BAD)
def test_a_bad_record_is_left_out_and_listed(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    write(tmp_path / "b.jsonl", ["Good."])
    (tmp_path / name).write_bytes(content)

    made = store.open_store(prepare(config(tmp_path, tmp_path / "s", onBadRecord="Quarantine", maxBadRecords=1), {}))

    good = ["fine"] if b"fine" in content else []
    assert texts_of(made) == [*good, "Good."]
    (listed,) = store.quarantined(made.folder, 5)
    assert (listed["file"], listed["count"], made.info.quarantined) == (name, 1, 1)
    assert says in ": ".join(filter(None, (listed["place"], listed["reason"])))
    (example,) = store.report(made).examples
    assert example.startswith(name)


def test_lines_are_counted_from_the_beginning_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a good one"}\n' * 20 + "{broken\n" + '{"text": "good"}\n' * 20)
    for piece_bytes in (1, 10, 23, 24, 100, 1000):
        with pytest.raises(DataError, match="line 21: not JSON"):
            read(tmp_path, piece_bytes=piece_bytes)


def test_more_bad_records_than_allowed_end_the_job(tmp_path: Path) -> None:
    data, stores = tmp_path / "data", tmp_path / "stores"
    data.mkdir()
    (data / "a.jsonl").write_text("{broken\n" * 2)
    (data / "b.jsonl").write_text('{"text": "good"}\n{broken\n')
    for allowed in (1, 2):
        with pytest.raises(
            DataError, match=f"data.maxBadRecords allows {allowed}; the first: a.jsonl, line 1: not JSON"
        ):
            prepare(config(data, stores, onBadRecord="Quarantine", maxBadRecords=allowed), {})
    assert prepare(config(data, stores, onBadRecord="Quarantine", maxBadRecords=3), {})


def test_a_text_with_a_bad_piece_is_left_out_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"fine\n" * 4 + b"caf\xe9\n" + b"fine again\n" * 4)
    write(tmp_path / "b.jsonl", ["Good."])
    made = prepare(config(tmp_path, tmp_path / "s", onBadRecord="Quarantine"), {}, piece_bytes=10)
    assert texts_of(store.open_store(made)) == ["Good."]


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _corrupt_group(path: Path) -> None:
    content = bytearray(path.read_bytes())
    place = content.index(TEXTS[2].encode())  # in the second row group, which has a page checksum
    content[place] ^= 0x20
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        pytest.param("a.parquet", _truncated, "not a whole Parquet file: ", id="truncated Parquet"),
        pytest.param("a.parquet", _corrupt_group, "row 3: row group 1 can't be read: ", id="corrupt row group"),
        pytest.param("a.parquet", lambda path: path.write_bytes(b""), "not a whole Parquet file", id="empty Parquet"),
        pytest.param("a.jsonl.gz", _truncated, "not a whole gzip file", id="truncated gzip"),
        pytest.param("a.jsonl.gz", lambda path: path.write_bytes(b"no"), "not a whole gzip file", id="no gzip"),
        pytest.param("a.json.gz", lambda path: path.write_bytes(b"no"), "not a whole gzip file", id="no gzip, unclear"),
        pytest.param(
            "a.lmdb", lambda path: (path / "data.mdb").write_bytes(b"no"), "not a whole LMDB database", id="no LMDB"
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, spoil: Callable[[Path], object], says: str) -> None:
    spoil(write(tmp_path / name))
    with pytest.raises(DataError) as refused:
        read(tmp_path / name)
    assert says in str(refused.value)
    assert str(tmp_path / name) in str(refused.value)


def test_the_rows_of_a_corrupt_row_group_count_as_bad_each(tmp_path: Path) -> None:
    _corrupt_group(write(tmp_path / "a.parquet"))
    with pytest.raises(DataError, match=r"2 bad records and more, of which data\.maxBadRecords allows 1"):
        prepare(config(tmp_path, tmp_path / "s", onBadRecord="Quarantine", maxBadRecords=1), {})
    made = store.open_store(prepare(config(tmp_path, tmp_path / "s", onBadRecord="Quarantine", maxBadRecords=2), {}))
    assert texts_of(made) == [*TEXTS[:2], *TEXTS[4:]]
    assert made.info.quarantined == 2


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("none", "data.path {}: does not exist; mount the volume that has it"),
        ("empty", "data.path {}: no .txt .json .jsonl"),
        ("image.png", "data.path {}: not a file of text; it must end in one of .txt"),
        ("image.png/below", "{}: Not a directory; see that the volume is mounted"),
        ("nothing", "{}: there is no text in it"),
        ("rows.parquet", "rows.parquet: no column 'text'; it has 'body'; name the right one in data.textField"),
    ],
)
def test_a_source_without_text_is_named_with_the_remedy(tmp_path: Path, path: str, says: str) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    (tmp_path / "empty").mkdir()
    (tmp_path / "image.png").write_bytes(b"")
    write(tmp_path / "nothing" / "a.jsonl", ["", ""])
    parquet.write_table(pa.table({"body": ["x"]}), tmp_path / "rows.parquet")
    with pytest.raises(TrainerError) as refused:
        prepare(config(tmp_path / path, tmp_path / "stores"), {})
    assert says.format(tmp_path / path) in str(refused.value)
    assert refused.value.exit_code is ExitCode.DATA_ERROR
    assert not list((tmp_path / "stores").glob("[!.k]*")), "nothing half-written"
