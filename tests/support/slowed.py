"""A process that is slower than its peers."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

PERIOD_S = 0.05


@contextlib.contextmanager
def half_stopped(pid: int) -> Iterator[None]:
    """The process gets half of the time: as one does whose core is another's as well."""
    over = threading.Event()

    def slow_down() -> None:
        with contextlib.suppress(ProcessLookupError):  # it may end
            for number in (signal.SIGSTOP, signal.SIGCONT) * 10_000:
                os.kill(pid, number)
                if over.wait(PERIOD_S):
                    break
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=slow_down)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
