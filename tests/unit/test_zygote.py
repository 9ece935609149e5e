"""A command in a fork of the zygote is the command: same arguments, streams, status, and it dies when it should."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from deepseek_trainer.agent import exec
from deepseek_trainer.agent.checkers import Checkers
from deepseek_trainer.agent.process import handles
from deepseek_trainer.preflight.records import Result
from deepseek_trainer.preflight.task import Task
from support.eventually import eventually

Start = Callable[..., "subprocess.Popen[str]"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the zygote needs Linux")

SHOW = """
import json, os, sys
print(json.dumps({"argv": sys.argv, "name": __name__, "cwd": os.getcwd(), "path": sys.path[0], "pid": os.getpid(),
                  "mark": os.environ.get("MARK"), "zygote": os.environ.get("DEEPSEEKJOB_ZYGOTE"),
                  "imported": "colorsys" in sys.modules}), flush=True)
"""


def bound(*command: str) -> list[str]:
    return [sys.executable, "-S", exec.__file__, str(os.getpid()), sys.executable, "-u", *command]


@pytest.fixture
def zygote() -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """A zygote that has imported a module which nothing else imports."""
    with tempfile.TemporaryDirectory(prefix="zygote-") as folder:
        address = Path(folder) / "socket"
        process = subprocess.Popen(bound("-m", "deepseek_trainer.agent.zygote", str(address), "colorsys"))
        eventually(address.exists, deadline_s=30, what="the zygote listens")
        yield address, process
        process.kill()
        process.wait()


@pytest.fixture
def start(zygote: tuple[Path, subprocess.Popen[bytes]], tmp_path: Path) -> Iterator[Start]:
    """Starts a script by way of the zygote; the code is the script's."""

    started: list[subprocess.Popen[str]] = []

    def start(
        code: str, *arguments: str, address: Path = zygote[0], stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[str]:
        script = tmp_path / "script.py"
        script.write_text(code)
        process = subprocess.Popen(
            bound(str(script), *arguments),
            env=os.environ | {exec.ZYGOTE: str(address), "MARK": "mine"},
            cwd=tmp_path,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()


def test_it_is_the_command_and_its_imports_are_done(start: Start, tmp_path: Path) -> None:
    import json

    process = start(SHOW, "--steps", "3", "-u")
    out, err = process.communicate(timeout=30)
    shown = json.loads(out)
    assert (process.returncode, err) == (0, "")
    assert shown["imported"], "it did not run in a fork"
    assert shown.pop("pid") != process.pid
    assert shown == {
        "argv": [str(tmp_path / "script.py"), "--steps", "3", "-u"],
        "name": "__main__",
        "cwd": str(tmp_path),
        "path": str(tmp_path),
        "mark": "mine",
        "zygote": None,
        "imported": True,
    }


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        ("raise SystemExit(0)", 0, ""),
        ("raise SystemExit(65)", 65, ""),
        ("import sys; sys.exit('a reason')", 1, "a reason"),
        ("raise ValueError('bad')", 1, "ValueError: bad"),
        ("import os; os._exit(7)", 7, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt"),
        ("import atexit; atexit.register(print, 'done')", 0, ""),
        ("import threading; threading.Timer(0.1, print, ['done']).start()", 0, ""),
        ("import threading; threading.Thread(target=input, daemon=True).start()", 0, ""),
        ("file = open(1, 'w', closefd=False); file.write('done')", 0, ""),
        ("import ctypes; ctypes.CDLL(None).printf(b'done')", 0, ""),
    ],
)
def test_it_ends_as_the_command_ends(start: Start, code: str, status: int, says: str) -> None:
    process = start(code, stdin=subprocess.PIPE)
    status_had = process.wait(30)
    out, err = process.communicate()
    assert status_had == status
    assert says in err
    assert ("done" in out) == ("done" in code)


def test_it_takes_nothing_apart_that_the_zygote_imported(start: Start) -> None:
    """For that it would copy every page that it shares with the zygote."""
    code = """
import colorsys
class Kept:
    def __del__(self):
        print('taken apart')
colorsys.kept = Kept()
"""
    assert start(code).communicate(timeout=30) == ("", "")


def test_what_was_imported_is_out_of_the_collector_s_sight(start: Start) -> None:
    """Else each fork copies the pages that its collections write to, and ends a second later."""
    code = "import gc; print(gc.isenabled(), gc.get_freeze_count() > 1000)"
    assert start(code).communicate(timeout=30)[0] == "True True\n"


def test_a_module_runs_as_with_python_m(zygote: tuple[Path, subprocess.Popen[bytes]], tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text("import sys; print(__package__, sys.argv[1:])")
    done = subprocess.run(
        bound("-m", "package", "a", "-m"),
        env=os.environ | {exec.ZYGOTE: str(zygote[0])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("package ['a', '-m']\n", 0), done.stderr


def test_signals_are_passed_on(start: Start) -> None:
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        "print('ready', flush=True)\n"
        "while True: signal.pause()"
    )
    process = start(code)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.wait(30) == 75


HANG = "import os\nprint(os.getpid(), flush=True)\nwhile True: pass"


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_it_dies_with_the_process_that_stands_for_it(start: Start) -> None:
    """Even when it never comes back to Python's main loop: the kernel does it."""
    process = start(HANG)
    assert process.stdout is not None
    fork = int(process.stdout.readline())
    process.kill()
    process.wait()
    eventually(lambda: _gone(fork), deadline_s=60, what="the fork is gone")


def test_nothing_outlives_the_zygote(start: Start, zygote: tuple[Path, subprocess.Popen[bytes]]) -> None:
    process = start(HANG)
    assert process.stdout is not None
    fork = int(process.stdout.readline())
    eventually(lambda: handles(process.pid, signal.SIGTERM), deadline_s=30, what="it knows of its fork")
    zygote[1].kill()
    assert process.wait(60) == -signal.SIGKILL
    eventually(lambda: _gone(fork), deadline_s=60, what="the fork is gone")


def test_what_it_leaves_behind_ends_with_it(start: Start) -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], stdout=subprocess.DEVNULL)\n"
        "print(child.pid, flush=True)"
    )
    process = start(code)
    out, _ = process.communicate(timeout=30)
    eventually(lambda: _gone(int(out)), deadline_s=60, what="the child is gone")


def test_a_fork_holds_nothing_of_another(start: Start) -> None:
    """Else the end of one would be heard when the other has ended, too."""
    code = "import os\nprint(len(os.listdir('/proc/self/fd')), flush=True)\ninput()"
    first, second = (start(code, stdin=subprocess.PIPE) for _ in range(2))
    shown = []
    for process in (first, second):
        assert process.stdout is not None
        shown.append(process.stdout.readline())
    assert shown[0] == shown[1]


def test_check_processes_are_forked_too(zygote: tuple[Path, subprocess.Popen[bytes]], tmp_path: Path) -> None:
    """Their events and what they are told pass through the process that stands for them."""
    script = tmp_path / "check.py"
    script.write_text(CHECK)

    class Forked(Checkers):
        def command(self, task: Task) -> list[str]:
            return bound(str(script))

    task = Task(node_rank=0, nodes=2, local_rank=0, procs=1, gpus=False, measured_s=1, master="", port=1, key="k")
    checkers = Forked(task, environment={exec.ZYGOTE: str(zygote[0])}, mute_s=30)
    try:
        eventually(checkers.arrival, deadline_s=30, what="ready")
        checkers.go(2.5)
        assert eventually(checkers.result, deadline_s=30, what="a result") == Result(end="done", reduce_mbps=2.5)
    finally:
        checkers.close()


CHECK = """
import sys
assert "colorsys" in sys.modules, "it did not run in a fork"
print('{"kind": "ready"}', flush=True)
print('{"kind": "reduce", "mbps": %s}' % sys.stdin.readline().strip(), flush=True)
"""


def test_forks_share_no_randomness(start: Start) -> None:
    code = "import random; print(random.random())"
    drawn = [start(code).communicate(timeout=30)[0] for _ in range(2)]
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("reason", ["absent", "dead", "broken import"])
def test_without_a_zygote_the_command_runs_plainly(start: Start, tmp_path: Path, reason: str) -> None:
    with tempfile.TemporaryDirectory(prefix="zygote-") as folder:
        address = Path(folder) / "socket"
        if reason != "absent":
            modules = ["no_such_module"] if reason == "broken import" else []
            process = subprocess.Popen(
                bound("-m", "deepseek_trainer.agent.zygote", str(address), *modules), stderr=subprocess.DEVNULL
            )
            eventually(address.exists, deadline_s=30, what="the zygote listens")
            if reason == "dead":
                process.kill()
            process.wait(30)
        plain = start(SHOW, address=address)
        out, err = plain.communicate(timeout=30)
        assert plain.returncode == 0, err
        assert '"imported": false' in out
