"""Every optimizer step from the workers' logs: `/progress` is a sample each second, the log has all of them.

The built-in trainer's rank 0 logs one line a step, with its time. A script of the user's that logs otherwise has
no step log; then the history is made of `/progress` alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

_LINE = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}) INFO rank=0 (?:.* )?step=(\d+) (?:.* )?loss=([0-9.e+-]+)")


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step."""

    time_s: float
    """Seconds since the run began."""
    step: int
    loss: float


class StepLog:
    """Reads what was appended to the logs since the last look."""

    def __init__(self, began: datetime) -> None:
        """Args: began: the run's beginning, naive local time as in the logs."""
        self._began = began
        self._offsets: dict[Path, int] = {}

    def read(self, paths: Iterable[Path]) -> list[Step]:
        """The new steps of all these logs, by time."""
        found = [step for path in paths for step in self._read_one(path)]
        return sorted(found, key=lambda step: step.time_s)

    def _read_one(self, path: Path) -> Iterator[Step]:
        try:
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                whole, _, _ = file.read().rpartition(b"\n")  # the last line may still be growing
        except OSError:  # nothing was written yet
            return
        if whole:
            self._offsets[path] = self._offsets.get(path, 0) + len(whole) + 1
        for match in _LINE.finditer(whole):
            time, step, loss = (part.decode() for part in match.groups())
            moment = datetime.fromisoformat(time)
            yield Step((moment - self._began).total_seconds(), int(step), float(loss))
