"""Finds and ends all processes of a pod, whatever sessions and parents they gave themselves.

A container's processes die with it because the kernel knows its PID namespace. Here a process belongs to a pod
when its environment says so: children inherit it through any number of forks, sessions and re-parentings, so
torchrun's workers (which lead sessions of their own) are found even after their agent was killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from deepseek_client.errors import ClientError

PROC = Path("/proc")
_PR_SET_PDEATHSIG = 1
_KILL_S, _LOOK_S = 30.0, 0.01
"""What was killed needs time of a processor to end, which a busy machine gives it late."""


def processes_with(marks: Mapping[str, str]) -> list[int]:
    """PIDs of the living (not zombie) processes whose initial environment has all these variables."""
    wanted = {f"{name}={value}".encode() for name, value in marks.items()}
    return [pid for pid in _pids() if wanted <= _environment(pid) and not _is_zombie(pid)]


def signal_all(marks: Mapping[str, str], number: signal.Signals) -> int:
    """Signals every process with these marks; answers how many there were."""
    pids = processes_with(marks)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it ended between the look and the signal
            os.kill(pid, number)
    return len(pids)


def kill_all(marks: Mapping[str, str]) -> None:
    """SIGKILLs every process with these marks until a look finds none.

    A process that forks between the look and the signal leaves a child that the next look finds.

    Raises:
        ClientError: some are left after half a minute: they hang in the kernel, or fork faster than they are killed.
    """
    end = time.monotonic() + _KILL_S
    while signal_all(marks, signal.SIGKILL):
        if time.monotonic() > end:
            left = ", ".join(map(str, processes_with(marks)))
            raise ClientError(f"processes {left} were killed and have not ended in {_KILL_S:.0f} s; look what they do")
        time.sleep(_LOOK_S)


def death_signal(number: signal.Signals = signal.SIGTERM) -> Callable[[], None]:
    """For subprocess' preexec_fn: the child gets this signal when the thread that started it dies."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def set_death_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)

    return set_death_signal


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir(PROC) if entry.isdigit()]


def _environment(pid: int) -> set[bytes]:
    try:
        return set((PROC / str(pid) / "environ").read_bytes().split(b"\0"))
    except OSError:  # ended, or another user's: none of ours
        return set()


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name: state, parent …; empty when it ended."""
    try:
        return (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _is_zombie(pid: int) -> bool:
    return _stat(pid)[:1] in (["Z"], ["X"], [])
