"""Lets a training process show the Python stacks of its threads when it is asked, though it may be stuck in C.

Pods have no right to look into a process from outside. So each training process has a handler from its very first
moment (`customize`, `zygote`), below any Python code: at the signal it writes its stacks to a file and goes on. Nothing is
done to a script that takes the signal for itself. Standard library only.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
from collections.abc import Mapping, MutableMapping

STACKS = "DEEPSEEKJOB_STACKS_FILE"
"""Environment variable: the file that the stacks go to. Its first line is the process' id."""
CUSTOMIZE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "customize")
"""Folder that Python is to look into first when a training process begins."""
SIGNAL = signal.SIGRTMAX - 4
"""A real-time signal, with which no runtime or profiler that we know of does anything."""


def environment(path: str, environ: Mapping[str, str]) -> dict[str, str]:
    """What readies a training process of that environment to write its stacks to that file."""
    return {STACKS: path, "PYTHONPATH": os.pathsep.join(filter(None, (CUSTOMIZE, environ.get("PYTHONPATH"))))}


def register(environ: MutableMapping[str, str]) -> None:
    """Readies this process, if it is a training process; leaves the environment as the user made it."""
    path = environ.pop(STACKS, "")
    paths = [entry for entry in environ.pop("PYTHONPATH", "").split(os.pathsep) if entry not in ("", CUSTOMIZE)]
    if paths:
        environ["PYTHONPATH"] = os.pathsep.join(paths)
    if not path:
        return
    with contextlib.suppress(OSError):
        # Never closed: the handler writes to it for as long as the process lives.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        faulthandler.register(SIGNAL, file=descriptor, all_threads=True)


def pid_in(text: str) -> int | None:
    """Process id in the first line of a file of stacks."""
    first = text.partition("\n")[0]
    return int(first) if first.isdecimal() and len(first) < 10 else None
