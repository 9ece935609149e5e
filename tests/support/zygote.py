"""Processes with their imports done: forks of one zygote for a whole test run.

The zygote is the product's own (`deepseek_trainer.agent.zygote`), and so a fork is the command itself: its arguments,
environment, streams and exit status. Only the seconds of CPU that importing torch costs are paid once. A process that
is told of the zygote (`environ`) has its own training and check processes forked from it as well.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from deepseek_trainer.agent import exec
from deepseek_trainer.agent.prewarm import BUILT_IN
from support.eventually import eventually

MODULES = (*BUILT_IN, "deepseek_trainer.agent.running", "deepseek_trainer.preflight.groups", "support.paced")
"""What agents, check processes and the built-in trainer import; and what slows the latter down where a test asks for that."""
QUIET = {"TORCH_CPP_LOG_LEVEL": "ERROR"}
"""The agent asks for that before it imports torch, which a fork has done already."""


class Zygote:
    """One zygote; it and all of its forks end with this process, however that ends."""

    def __init__(self, *modules: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="zygote-")
        self._address = Path(self._folder.name) / "socket"
        bound = [sys.executable, "-S", exec.__file__, str(os.getpid()), sys.executable, "-u"]
        command = [*bound, "-m", "deepseek_trainer.agent.zygote", str(self._address), *modules]
        path = os.pathsep.join(part for part in sys.path if part)  # what stands for the trainer is one of these files
        self.process = subprocess.Popen(command, env=os.environ | QUIET | {"PYTHONPATH": path})

    @property
    def environ(self) -> dict[str, str]:
        """Tells a process of this zygote."""
        return {exec.ZYGOTE: str(self._address)}

    def start(self, command: Sequence[str], *, environ: Mapping[str, str], log: Path) -> Forked:
        """Starts the command, an interpreter with its arguments; what it prints goes to the log."""
        request = {"argv": list(command), "env": dict(environ), "cwd": os.getcwd()}
        connection = socket.socket(socket.AF_UNIX)
        eventually(lambda: self._answers(connection), deadline_s=60, what="the zygote listens", interval_s=0.01)
        lifeline, held = os.pipe()
        with log.open("ab") as output, open(os.devnull) as nothing:
            fds = [nothing.fileno(), output.fileno(), output.fileno(), lifeline]
            content = json.dumps(request).encode()
            socket.send_fds(connection, [len(content).to_bytes(8, "big")], fds)
            connection.sendall(content)
        os.close(lifeline)
        return Forked(command, connection, held)

    def _answers(self, connection: socket.socket) -> bool:
        """Connects, if it listens yet: its address is there a moment before."""
        try:
            connection.connect(str(self._address))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    def hold(self) -> None:
        """Whoever asks from now on waits."""
        self.process.send_signal(signal.SIGSTOP)

    def release(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._folder.cleanup()


class Forked:
    """A process of a zygote; to be used as a `subprocess.Popen`."""

    def __init__(self, command: Sequence[str], connection: socket.socket, held: int) -> None:
        self._command = list(command)
        self._connection = connection
        self._replies = connection.makefile("rb", buffering=0)
        self._held = held
        self.returncode: int | None = None
        self.pid = int(self._replies.readline())

    def poll(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._status(0)

    def wait(self, timeout: float | None = None) -> int:
        """Exit status.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        status = self._status(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(self._command, timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and is about to say so
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _status(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], timeout)[0]:
            told = self._replies.readline()
            self.returncode = os.waitstatus_to_exitcode(int(told)) if told else -signal.SIGKILL
            self._replies.close()
            self._connection.close()
            os.close(self._held)
        return self.returncode


@functools.cache
def shared() -> Zygote:
    """The zygote of this test run."""
    made = Zygote(*MODULES)
    atexit.register(made.close)
    return made


def fork_of(pid: int) -> int | None:
    """The fork for which this process stands; None where it runs its command itself, or has no fork yet.

    The two share a pipe, its lifeline. So does the zygote for a moment, but that is older than who asks it.
    """
    mine = _pipes(pid)
    both_ends = {pipe for pipe in mine if mine.count(pipe) == 2}
    if not both_ends:
        return None
    others = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal() and path.name != str(pid))
    return next((other for other in others if both_ends & set(_pipes(other)) and _began(other) >= _began(pid)), None)


def _began(pid: int) -> int:
    """When the process was started, in clock ticks; -1: it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return -1


def _pipes(pid: int) -> list[str]:
    """The pipes that a process has open, one entry for each descriptor."""
    try:
        found = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    except (FileNotFoundError, PermissionError, ProcessLookupError):  # it has ended, or is another user's
        return []
    return [link for link in found if link.startswith("pipe:")]
