"""Ports for servers that are started a moment later, no two alike.

One that was merely found free may be another's by then: of a test beside this one that found it, too, or of a connection
that goes out. So a file of this machine counts on from one to the next, below those that the kernel gives (32768 and
more) and those that the Ray clusters of tests have (23000 to 26999).
"""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from pathlib import Path

_FIRST, _END = 12_000, 23_000


def free_port() -> int:
    counter = Path(tempfile.gettempdir(), f"deepseekjob-test-ports-{os.getuid()}")
    with open(os.open(counter, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        number = int(file.read() or 0)
        while not _is_free(port := _FIRST + number % (_END - _FIRST)):
            number += 1
        file.seek(0)
        file.truncate()
        file.write(str(number + 1))
    return port


def _is_free(port: int) -> bool:
    """Whether nobody has it, on any address."""
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
