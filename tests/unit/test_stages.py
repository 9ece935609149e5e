"""What `make test` does with its stages: side by side, readable, and nothing left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.eventually import eventually

STAGES = Path(__file__).resolve().parents[2] / "tools" / "stages.py"

MAKEFILE = """
SHELL := /bin/bash
meet-%:
\t@echo hello from $*; touch $*; until [ -e $(if $(filter a,$*),b,a) ]; do read -t 0.05 < <(:) || true; done
write:
\t@echo 1 >written
read:
\t@cat written
bad:
\t@until [ -e pid ]; do :; done; echo what is wrong; exit 3
long:
\t@trap 'echo cleaned >cleaned; exit 1' INT; echo $$$$ >pid.tmp; mv pid.tmp pid; while :; do read -t 1 < <(sleep 1) || true; done
deaf:
\t@trap '' INT TERM; echo $$$$ >pid.tmp; mv pid.tmp pid; while :; do read -t 1 < <(sleep 1) || true; done
"""


class Run:
    def __init__(self, folder: Path, *lanes: str) -> None:
        self.folder = folder
        (folder / "Makefile").write_text(MAKEFILE)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        command = [sys.executable, str(STAGES), *lanes]
        self.process = subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.PIPE, text=True)

    def ends(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=60)
        return self.process.returncode, output

    def pid(self) -> int:
        """Of the verb that writes it down; it runs."""
        file = self.folder / "pid"
        eventually(file.exists, deadline_s=60, what="the verb runs")
        return int(file.read_text())


Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Run] = []

    def start(*lanes: str) -> Run:
        started.append(Run(tmp_path, *lanes))
        return started[-1]

    yield start
    for run in started:
        run.process.kill()
        run.process.communicate()


def test_lanes_run_at_the_same_time_and_their_output_is_not_mixed(start: Start) -> None:
    code, output = start("meet-a", "meet-b").ends()
    assert code == 0, output
    for name in "ab":
        assert f"===== meet-{name}: passed" in output
        rest = output.partition(f"===== meet-{name}: passed")[2]
        assert rest.splitlines()[1] == f"hello from {name}"
    assert "===== all passed" in output


def test_a_lane_is_in_order(start: Start) -> None:
    code, output = start("write,read").ends()
    assert code == 0, output
    assert output.index("===== write: passed") < output.index("===== read: passed")


def test_a_failure_ends_everything_and_is_shown_last(start: Start, tmp_path: Path) -> None:
    code, output = start("long,write", "bad,write").ends()
    assert code == 2  # make's own, for a recipe that failed
    assert output.index("===== long: stopped") < output.index("===== bad: failed with exit status 2")
    assert "what is wrong" in output.partition("===== bad: failed")[2]
    assert "===== write" not in output
    assert (tmp_path / "cleaned").exists(), "it had no time to clean up"
    assert not (tmp_path / "written").exists(), "a stage was started after the failure"


def test_with_keep_going_all_is_run_and_each_failure_is_shown_last(start: Start) -> None:
    code, output = start("--keep-going", "long-not,write,read", "bad-not").ends()
    assert code == 2
    assert "===== read: passed" in output
    rest = output.partition("===== read: passed")[2]
    for failed in ("long-not", "bad-not"):
        assert f"===== {failed}: failed with exit status 2; what it said comes last" in output
        assert f"No rule to make target '{failed}'" in rest.partition(f"===== {failed}: failed")[2]
    assert "===== failed, " in rest.partition("===== bad-not: failed")[2]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_everything(start: Start, tmp_path: Path, number: signal.Signals, code: int) -> None:
    run = start("long", "write")
    pid = run.pid()
    run.process.send_signal(number)
    assert run.ends()[0] == code
    assert (tmp_path / "cleaned").exists()
    assert not Path(f"/proc/{pid}").exists()


def test_what_is_deaf_is_killed_when_asked_twice(start: Start) -> None:
    run = start("deaf")
    pid = run.pid()

    def asked_again() -> bool:
        run.process.send_signal(signal.SIGINT)
        return run.process.poll() is not None

    eventually(asked_again, deadline_s=60, what="the end")
    eventually(lambda: not Path(f"/proc/{pid}").exists(), deadline_s=30, what="nothing is left")
