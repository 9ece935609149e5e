"""The run's log as training sees it: `tell` takes a record and returns at once; a thread brings it to where it goes.

What fails is told once for each kind, tried again a minute later, and never raised; records of that time are lost to that
kind. When more wait than a queue may hold, as behind a server that doesn't answer, the newest are left out.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from deepseek_trainer.config import RunConfig
from deepseek_trainer.contract import Env
from deepseek_trainer.errors import first_line
from deepseek_trainer.tracking import kinds
from deepseek_trainer.tracking.record import Open, Place, Record, Sink

log = logging.getLogger(__name__)

THREAD = "run-log"
MOST_WAITING = 10_000
AGAIN_S = 60.0
CLOSING_S = 10.0
"""How long a process that ends waits for what is still to be written."""


def is_any_under_way() -> bool:
    """Whether a log is still being written in this process."""
    return any(thread.name == THREAD for thread in threading.enumerate())


class Outlet:
    """One kind of log, open or not."""

    def __init__(
        self, kind: str, make: Open, place: Place, after: int | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Args: after: the step that the series goes on from; None: it begins."""
        self._kind, self._make, self._place, self._after, self._clock = kind, make, place, after, clock
        self._sink: Sink | None = None
        self._not_before = -float("inf")
        self._has_warned = False

    def write(self, records: Sequence[Record]) -> None:
        if self._clock() < self._not_before:
            return
        try:
            self._sink = self._sink or self._make(self._place, self._after)
            self._sink.write(records)
            self._after = records[-1].step
        except Exception as error:
            self._failed(error)

    def close(self) -> None:
        try:
            if self._sink is not None:
                self._sink.close()
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "trainer.logging: %s can't be written: %s: %s; training goes on, and it is tried again each minute",
                self._kind,
                type(error).__name__,
                first_line(error),
            )
        sink, self._sink, self._not_before = self._sink, None, self._clock() + AGAIN_S
        if sink is not None:
            with contextlib.suppress(Exception):  # that it is broken has been told
                sink.close()


class RunLog:
    """Of one start of training, on rank 0."""

    def __init__(self, outlets: Sequence[Outlet], every_steps: int, clock: Callable[[], float] = time.time) -> None:
        self._outlets, self._every_steps, self._clock = outlets, every_steps, clock
        self._waiting: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        self._has_dropped = False
        self._thread = threading.Thread(target=self._work, name=THREAD, daemon=True)
        self._thread.start()

    def is_due(self, step: int) -> bool:
        """Whether this step is to be told."""
        return step % self._every_steps == 0

    def tell(self, step: int, values: Mapping[str, float | None], texts: Mapping[str, str] | None = None) -> None:
        """Takes a record; what is None, or no number, is left out. Returns at once."""
        if self._waiting.qsize() >= MOST_WAITING:
            if not self._has_dropped:
                self._has_dropped = True
                log.warning("trainer.logging: %d records wait to be written; newer ones are left out", MOST_WAITING)
            return
        known = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        self._waiting.put(Record(step, self._clock(), known, texts or {}))

    def close(self) -> None:
        """Waits for what is to be written, but not for long."""
        self._waiting.put(None)
        self._thread.join(CLOSING_S)
        if self._thread.is_alive():
            log.warning("trainer.logging: left records unwritten, as writing them takes more than %g s", CLOSING_S)

    def _work(self) -> None:
        ended = False
        while not ended:
            taken = [self._waiting.get()]
            while not self._waiting.empty():
                taken.append(self._waiting.get())
            ended = None in taken
            records = [one for one in taken if one is not None]
            for outlet in self._outlets if records else ():
                outlet.write(records)
        for outlet in self._outlets:
            outlet.close()


def begin(config: RunConfig, environ: Mapping[str, str], after: int | None) -> RunLog | None:
    """The log that the config asks for, on rank 0; None: it asks for none.

    Args:
        after: the step that training goes on from; None: it begins.
    """
    spec = config.trainer.logging
    if not spec.kinds or config.log_directory is None:
        return None
    place = Place(
        directory=Path(config.log_directory),
        job=config.job,
        uid=environ.get(Env.JOB_UID, ""),
        project=spec.project,
        tracking_uri=spec.tracking_uri,
        offline=spec.offline,
        config=config.model_dump(mode="json", by_alias=True, exclude_none=True),
    )
    outlets = [Outlet(kind, kinds.opener(kind), place, after) for kind in dict.fromkeys(spec.kinds)]
    return RunLog(outlets, spec.every_steps)
