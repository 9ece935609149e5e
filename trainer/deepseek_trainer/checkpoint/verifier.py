"""Reading a committed checkpoint once more, from the volume itself, in a thread of rank 0 while steps go on.

    as it was committed ──► VERIFIED in its folder: retention never deletes the newest of these
    another content     ──► DAMAGED in its folder, with the reason: it doesn't count any more, and a new one is due

Either mark has the sha256 of the manifest in it, so that it can't speak of another checkpoint of the same step. A start
doesn't go by the marks: it hashes what it loads. The thread isn't niced: it would hold Python's lock for longer where
processors are scarce, and steps would wait for it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deepseek_trainer import durable
from deepseek_trainer.checkpoint import layout
from deepseek_trainer.checkpoint.flight import THREAD
from deepseek_trainer.checkpoint.verify import verify
from deepseek_trainer.errors import UnavailableError, first_line

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """What a reading came to.

    Attributes:
        problem: what is wrong with it; "" when nothing is.
    """

    step: int
    problem: str


class Verifier:
    """One reading at a time; of the checkpoints that are committed meanwhile only the newest is read."""

    def __init__(self, reread: Callable[[str], str | None]) -> None:
        """Args:
        reread: reads and marks the checkpoint at a path; see `reread`.
        """
        self._reread = reread
        self._lock = threading.Lock()
        self._next: tuple[int, str] | None = None
        self._verdicts: list[Verdict] = []
        self._thread: threading.Thread | None = None
        self._leaving = False

    def read(self, step: int, checkpoint: str) -> None:
        """Has a checkpoint read, now or after the one that is being read."""
        with self._lock:
            self._next = (step, checkpoint)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=f"{THREAD}verify", daemon=True)
                self._thread.start()

    def verdicts(self) -> list[Verdict]:
        """Those that are new."""
        with self._lock:
            told, self._verdicts = self._verdicts, []
            return told

    def wait(self) -> None:
        """Returns when nothing is left to be read."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def leave(self) -> None:
        """The process ends by an error, and doesn't wait: how a reading fails from now on says nothing."""
        self._leaving = True

    def _work(self) -> None:
        while True:
            with self._lock:
                wanted, self._next = self._next, None
                if wanted is None:
                    self._thread = None
                    return
            step, checkpoint = wanted
            try:
                problem = self._reread(checkpoint)
            except Exception as error:
                if self._leaving:  # an interpreter that ends starts no thread to hash in any more
                    return
                log.error("not verified step=%d: %s: %s", step, type(error).__name__, first_line(error))
                continue
            if problem is not None:
                with self._lock:
                    self._verdicts.append(Verdict(step, problem))


def reread(checkpoint: Path) -> str | None:
    """Reads and marks a checkpoint; what is wrong with it, "" for nothing, None if that can't be told: it is deleted by now."""
    try:
        mark = (checkpoint / layout.COMMITTED).read_bytes()
        for path in checkpoint.iterdir():
            forget(path)
        problem, _ = verify(checkpoint)
        durable.write_bytes(
            checkpoint / (layout.DAMAGED if problem else layout.VERIFIED), mark + f"\n{problem}\n".encode()
        )
    except (OSError, UnavailableError):
        return None
    return problem


def forget(path: Path) -> None:
    """Has the kernel drop what it keeps of a file, so that the next reading is the volume's."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
