"""A node's shelf, its room, who may fetch from it, and what fetches a neighbour's part."""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from deepseek_trainer.checkpoint.memory import room
from deepseek_trainer.checkpoint.memory.copying import Copying, Wanted
from deepseek_trainer.checkpoint.memory.peers import Peer, PeerError, Server
from deepseek_trainer.checkpoint.memory.shelf import Shelf

TOKEN = "secret"
CONTENT = bytes(range(256)) * 8
NAME = hashlib.sha256(CONTENT).hexdigest()


def _put(shelf: Shelf, content: bytes) -> str:
    name, copy = hashlib.sha256(content).hexdigest(), shelf.copy()
    copy.write(memoryview(content))
    copy.finish(name)
    return name


@pytest.mark.parametrize(
    ("maximum", "current", "droppable", "expected"),
    [
        ("max", 0, 0, sys.maxsize),
        (2**30, 2**29, 0, 2**29 - room.SPARE),
        (2**30, 2**30, 2**29, 2**29 - room.SPARE),
        (2**30, 2**30, 0, -room.SPARE),
        ("what", 0, 0, sys.maxsize),
    ],
)
def test_the_containers_memory(tmp_path: Path, maximum: int | str, current: int, droppable: int, expected: int) -> None:
    (tmp_path / "memory.max").write_text(f"{maximum}\n")
    (tmp_path / "memory.current").write_text(f"{current}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\nactive_file {droppable}\ninactive_file 0\n")
    assert room.of_the_container(tmp_path) == expected
    assert room.left(tmp_path, 100, cgroup=tmp_path) <= min(100, expected)


def test_a_shelf_makes_room_of_what_is_oldest_and_gives_up_when_nothing_is_left(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf", 2500)
    old, new = _put(shelf, b"a" * 1000), _put(shelf, b"b" * 1000)
    os.utime(shelf.path(old), (1, 1))
    newest = _put(shelf, b"c" * 1000)
    assert shelf.held() == {new: 1000, newest: 1000}
    large = shelf.copy(instead=False)
    large.write(memoryview(b"d" * 1000))
    assert "are left of checkpoint.memory.size" in large.given_up
    large.finish("e" * 64)
    assert shelf.held() == {new: 1000, newest: 1000}
    assert not list(shelf.folder.glob(".*"))
    shelf.keep_only([new])
    assert shelf.held() == {new: 1000}


def test_a_file_that_is_not_written_to_its_end_never_appears(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf", 2**20)
    half = shelf.copy()
    half.write(memoryview(CONTENT))
    assert not shelf.held()
    assert len(list(shelf.folder.glob(".*"))) == 1
    half.abandon()
    assert not list(shelf.folder.iterdir())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server("127.0.0.1", Shelf(tmp_path_factory.mktemp("pod") / "served", 2**20))
    _put(server.shelf, CONTENT)
    server.token = TOKEN
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "authorization", "expected"),
    [
        (f"/{NAME}", f"Bearer {TOKEN}", 206),
        (f"/{NAME}", "Bearer other", 403),
        (f"/{NAME}", "", 403),
        (f"/{'0' * 64}", f"Bearer {TOKEN}", 404),
        (f"/{NAME.upper()}", f"Bearer {TOKEN}", 404),
        ("/../secret", f"Bearer {TOKEN}", 404),
        (f"/{NAME}/../../secret", f"Bearer {TOKEN}", 404),
        ("/", f"Bearer {TOKEN}", 404),
    ],
)
def test_only_ranks_of_this_start_get_what_is_named_by_its_sha256(
    served: Server, path: str, authorization: str, expected: int
) -> None:
    (served.shelf.folder.parent / "secret").write_text("of another")
    with closing(http.client.HTTPConnection("127.0.0.1", served.server_port, timeout=10)) as connection:
        connection.request("GET", path, headers={"Authorization": authorization} if authorization else {})
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (expected, CONTENT if expected == 206 else b"")


def _peer(server: Server, token: str = TOKEN) -> closing[Peer]:
    return closing(Peer("127.0.0.1", server.server_port, token))


def test_nobody_is_answered_before_there_is_a_token(served: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "token", "")
    with pytest.raises(PeerError, match="403"), _peer(served, "") as peer:
        peer.read(NAME, 0, 1)


@pytest.mark.parametrize("piece", [(0, len(CONTENT)), (5, 300), (len(CONTENT) - 1, 1), (7, 0)])
def test_a_piece_of_a_file(served: Server, piece: tuple[int, int]) -> None:
    offset, length = piece
    with _peer(served) as peer:
        assert peer.read(NAME, offset, length) == CONTENT[offset : offset + length]


def test_a_piece_that_the_file_does_not_have_is_an_error(served: Server) -> None:
    with pytest.raises(PeerError, match="answers 206 with 2047 of 2048 bytes"), _peer(served) as peer:
        peer.read(NAME, 1, len(CONTENT))


def test_a_neighbours_files_are_fetched_from_whoever_has_them_right(served: Server, tmp_path: Path) -> None:
    own, wrong = Shelf(tmp_path / "own", 2**20), "1" * 64
    served.shelf.path(wrong).write_bytes(CONTENT)
    copying = Copying(own, TOKEN)
    nobody = ("127.0.0.1", 9)
    copying.want(
        [
            Wanted(NAME, len(CONTENT), (nobody, ("127.0.0.1", served.server_port))),
            Wanted(wrong, len(CONTENT), (("127.0.0.1", served.server_port),)),
        ]
    )
    assert copying.wait(20)
    assert own.held() == {NAME: len(CONTENT)}
    assert not list(own.folder.glob(".*"))
