"""Something that is asked for by touching a file."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

LOOK_EVERY_S = 1.0


class Request:
    """The file, watched from now on: what was asked of a process before is not asked of this one."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._looked_at = clock()
        self._answered = self._touched()

    def is_new(self) -> bool:
        """Whether the file was touched since the last time that this was true; looks once in a second."""
        now = self._clock()
        if now - self._looked_at < LOOK_EVERY_S:
            return False
        self._looked_at = now
        before, self._answered = self._answered, self._touched()
        return self._answered is not None and self._answered != before

    def _touched(self) -> int | None:
        """When it was, in nanoseconds; None: it isn't there, or can't be seen."""
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return None
