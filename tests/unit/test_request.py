"""Something is asked for by touching a file: once for each touch, and not of a process that comes later."""

from __future__ import annotations

import os
from pathlib import Path

from deepseek_trainer.request import Request


def test_each_touch_is_one_request(tmp_path: Path) -> None:
    now, path = [0.0], tmp_path / "profile"
    request = Request(path, clock=lambda: now[0])

    def asked() -> bool:
        now[0] += 1
        return request.is_new()

    assert not asked(), "nobody asks"
    path.touch()
    os.utime(path, ns=(1, 1))
    now[0] += 0.5
    assert not request.is_new(), "looked half a second ago"
    assert asked()
    assert not asked(), "it has been answered"
    os.utime(path, ns=(2, 2))
    assert asked(), "touched again"
    path.unlink()
    assert not asked()
    path.touch()
    assert asked(), "made anew"
    later = Request(path, clock=lambda: now[0])
    now[0] += 1
    assert not later.is_new(), "asked of the process before"


def test_a_file_that_can_not_be_seen_asks_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    now = [0.0]
    request = Request(tmp_path / "file" / "profile", clock=lambda: now[0])
    now[0] = 5.0
    assert not request.is_new()
