"""Daemons that outlive the command that starts them, known by a record file beside their log.

A record holds the pid and the process's start time, so that a reused pid is never signalled.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from native.errors import NativeError

POLL_S = 0.05
KILLED_S = 60.0
"""By then a killed process has ended, also on a busy machine; the first of a node ends after all others of it."""
GARBAGE = {"GOGC": "400"}
"""For daemons written in Go, unless told otherwise: with Go's own 100 they collect garbage for a fifth of their time."""


@dataclass(frozen=True)
class Daemon:
    """A started process; `started` is field 22 of /proc/<pid>/stat (clock ticks since boot)."""

    name: str
    pid: int
    started: int
    log: str


def start(
    name: str,
    argv: Sequence[str | Path],
    directory: Path,
    *,
    environment: Mapping[str, str] | None = None,
    bound_to_parent: bool = False,
) -> Daemon:
    """Starts a process in its own session; writes <directory>/<name>.log and <name>.daemon.

    With bound_to_parent the kernel kills it when its parent ends, however that ends.
    """
    log = directory / f"{name}.log"
    command = [str(part) for part in argv]
    setpriv = shutil.which("setpriv")
    if bound_to_parent and setpriv:
        command = [setpriv, "--pdeathsig", "KILL", "--", *command]
    program = shutil.which(command[0])
    if program is None:
        raise NativeError(f"{name}: {command[0]} is not installed; install it and run this again")
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    pid = os.posix_spawn(program, command, GARBAGE | dict(environment or os.environ), file_actions=files, setsid=True)
    return record(name, pid, directory)


def record(name: str, pid: int, directory: Path) -> Daemon:
    """Writes <directory>/<name>.daemon for a process that runs, whoever started it."""
    daemon = Daemon(name, pid, _stat(pid)[1], str(directory / f"{name}.log"))
    path = directory / f"{name}.daemon"
    path.with_suffix(".tmp").write_text(json.dumps(asdict(daemon)))
    path.with_suffix(".tmp").replace(path)
    return daemon


def recorded(directory: Path) -> list[Daemon]:
    """Every daemon that was started in this directory, dead or alive."""
    return [Daemon(**json.loads(path.read_text())) for path in sorted(directory.glob("*.daemon"))]


def alive(daemon: Daemon) -> bool:
    """Whether the very process still runs; reaps it when it is a child of ours that has ended."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(daemon.pid, os.WNOHANG)
    state, started = _stat(daemon.pid)
    return started == daemon.started and state not in "ZX"


def stop(daemons: Sequence[Daemon], *, grace_s: float = 10.0) -> None:
    """Asks all of them to end, and kills those that have not after grace_s.

    Raises:
        NativeError: one is still there a minute after SIGKILL (it hangs in the kernel).
    """
    for daemon in daemons:
        signal_to(daemon, signal.SIGTERM)
    with contextlib.suppress(NativeError):
        wait_until(lambda: not any(map(alive, daemons)), grace_s, "processes end")
    for daemon in daemons:
        signal_to(daemon, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, daemons)), KILLED_S, "killed processes end", lambda: _names(daemons))


def signal_to(daemon: Daemon, number: signal.Signals) -> None:
    """Sends a signal if the very process still runs."""
    if alive(daemon):
        with contextlib.suppress(ProcessLookupError):
            os.kill(daemon.pid, number)


def require_alive(daemon: Daemon) -> None:
    """Raises a NativeError with the end of its log when the daemon has ended."""
    if not alive(daemon):
        tail = Path(daemon.log).read_text(errors="replace").strip()[-2000:]
        raise NativeError(f"{daemon.name} has ended; its log {daemon.log} ends with:\n{tail}")


def wait_until(
    condition: Callable[[], bool], timeout_s: float, what: str, last: Callable[[], object] = lambda: ""
) -> None:
    """Polls until the condition holds.

    Raises:
        NativeError: it does not within timeout_s; the message carries `last()`, the state it was left in.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise NativeError(f"waited {timeout_s:.0f} s in vain: {what}. Last state: {last()}")
        time.sleep(POLL_S)


def strays(programs: Collection[str], directory: Path) -> list[Daemon]:
    """Processes of these programs that have a path below directory among their arguments, recorded or not."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            arguments = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if Path(arguments[0]).name in programs and any(f"{directory}/" in argument for argument in arguments):
            found.append(Daemon(arguments[0], int(folder.name), _stat(int(folder.name))[1], ""))
    return found


def _names(daemons: Sequence[Daemon]) -> str:
    return ", ".join(f"{daemon.name} ({daemon.pid})" for daemon in daemons if alive(daemon))


def _stat(pid: int) -> tuple[str, int]:
    """(state, start time) of a process; ("X", -1) when there is none. The name may hold spaces and parentheses."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "X", -1
    return fields[0], int(fields[19])
