"""How a training process says where it is: one small JSON file, which the agent merges into `/progress`.

The agent names the file in `DEEPSEEKJOB_PROGRESS_FILE`, anew for every start of the processes; global rank 0
writes it. The write is a rename, so the agent never reads half a report. Importable without torch; a user's
script may use it:

    reporter = Reporter.from_environment()
    reporter.write(Report(phase="training", step=step, total_steps=1000, loss=loss))

What every rank says of itself, for its agent alone, is in `pulse`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from deepseek_trainer.contract import Env, Report


class Reporter:
    """Writes reports, at most one in each `interval_s`; a change of phase is always written at once."""

    def __init__(
        self, path: Path | None, *, interval_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """With path None (not rank 0, or not under the agent) every write is a no-op."""
        self._path = path
        self._interval_s = interval_s
        self._clock = clock
        self._written_at = float("-inf")
        self._phase: str | None = None
        self._pending: Report | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Reporter:
        """The reporter of this process: it writes only in global rank 0 of a job that has an agent."""
        path = environ.get(Env.PROGRESS_FILE, "")
        return cls(Path(path) if path and environ.get("RANK", "0") == "0" else None)

    def write(self, report: Report, *, force: bool = False) -> bool:
        """Writes the report, or keeps it for `flush` when the last write is too recent. True when it was written.

        Raises:
            OSError: the folder of the progress file can't be written.
        """
        if self._path is None:
            return False
        due = self._clock() - self._written_at >= self._interval_s
        if not (force or due or report.phase != self._phase):
            self._pending = report
            return False
        _replace(self._path, report.model_dump_json(by_alias=True, exclude_none=True))
        self._written_at, self._phase, self._pending = self._clock(), report.phase, None
        return True

    def flush(self) -> None:
        """Writes a report that was held back; call it before the process ends."""
        if self._pending is not None:
            self.write(self._pending, force=True)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
