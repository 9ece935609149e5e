"""What the agent knows at this moment: its own state merged with the report of global rank 0, for all who ask.

The supervision loop writes, the HTTP server's threads read. The report is untrusted: too large, malformed or of
another shape is logged once and otherwise as if it were not there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from deepseek_trainer.agent.goodput import Bucket, GoodputClock
from deepseek_trainer.agent.log import EventLog
from deepseek_trainer.agent.settings import Settings
from deepseek_trainer.contract import (
    HANGS_MAX,
    PROGRESS_MAX_BYTES,
    Failure,
    Goodput,
    Hang,
    Membership,
    Progress,
    Report,
    Silence,
    Straggler,
)
from deepseek_trainer.pulse import Pulse

REPORT_MAX_BYTES = PROGRESS_MAX_BYTES // 2
HEALTHY_S = 60.0
"""The supervision loop must have turned within this time; it turns ten times a second."""
IMPORTED_S = 600.0
"""Before it turns for the first time torch is imported, which takes minutes from a cold image on a busy node."""


class Status:
    """The agent's state. `tick` is called by the supervision loop at every turn and wait."""

    def __init__(
        self,
        settings: Settings,
        *,
        report_every_s: float = 0.25,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._report_every_s = report_every_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._log = EventLog(self.context)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._news = 0
        self._silence: Silence | None = None
        self._goodput = GoodputClock(clock())
        self._ticked_at = clock()
        self._has_ticked = False
        self._was_ready = False
        self._is_warm: Callable[[], bool] = lambda: True
        self._read_at = float("-inf")
        self._membership: Membership | None = None
        self._round = 0
        self._process_restarts = 0
        self._failure: Failure | None = None
        self._hangs: tuple[Hang, ...] = ()
        self._report: Report | None = None
        self._report_file: Path | None = None
        self._complaint = ""
        self._is_running = False
        self._pulses: Mapping[int, Pulse] = {}
        self._stragglers: tuple[Straggler, ...] | None = None
        self._faulted = False
        self._has_reported = False

    def context(self) -> dict[str, object]:
        """The fields that every log line carries."""
        generation = self._membership.generation if self._membership else 0
        return {"job": self._settings.job, "pod": self._settings.pod, "generation": generation, "round": self._round}

    def is_healthy(self) -> bool:
        return self._clock() - self._ticked_at < (HEALTHY_S if self._has_ticked else IMPORTED_S)

    def ready_when(self, is_warm: Callable[[], bool]) -> None:
        """Has readiness wait for this, too."""
        self._is_warm = is_warm

    def is_ready(self) -> bool:
        """Whether processes that start here start at once: all is imported, and the supervision loop turns."""
        self._was_ready = self._was_ready or (self._has_ticked and self._is_warm())
        return self._was_ready and self.is_healthy()

    def joined(self, membership: Membership, round_number: int, report_file: Path) -> None:
        """A round starts with this pod in it, and its processes will report in this file."""
        with self._lock:
            self._advance()
            if self._membership is not None and self._membership.generation == membership.generation:
                self._process_restarts += 1
            self._membership, self._round = membership, round_number
            self._report, self._report_file, self._is_running = None, report_file, True
            self._pulses, self._stragglers = {}, None
            self._goodput.restarted()
            self._silence = None
            self._tell_news()

    def stopped(self, *, fault: bool) -> None:
        """The training processes do not run; with fault, what follows until the next step is recovery."""
        with self._lock:
            self._advance()
            self._read_report()
            self._is_running = False
            self._pulses, self._stragglers = {}, None
            self._faulted = self._faulted or fault

    def failed(self, failure: Failure, membership: Membership | None = None) -> None:
        """Notes the failure that ends the agent; with the membership, if that has not come to a start of processes."""
        with self._lock:
            self._failure = failure
            self._membership = membership or self._membership

    def hung(self, hang: Hang) -> None:
        """Notes a standstill that was settled."""
        with self._lock:
            self._hangs = (*self._hangs, hang)[-HANGS_MAX:]
            self._tell_news()

    def report(self) -> Report | None:
        """What rank 0 said last in this round, if it runs here and said something."""
        with self._lock:
            return self._report

    def heard(self, silence: Silence) -> None:
        """Who gives no sign of life, as node rank 0 hears it; if nobody, that is no news after no news."""
        heard = silence if silence.nodes or silence.store else None
        with self._lock:
            if heard != self._silence:
                self._silence = heard
                self._tell_news()

    def await_news(self, seen: int, timeout_s: float) -> None:
        """Returns when there is other news than these, or after the time."""
        with self._changed:
            self._changed.wait_for(lambda: self._news != seen, timeout_s)

    def _tell_news(self) -> None:
        self._news += 1
        self._changed.notify_all()

    def tick(self) -> None:
        now = self._clock()
        with self._lock:
            self._ticked_at, self._has_ticked = now, True
            self._advance()
            if self._is_running and now - self._read_at >= self._report_every_s:
                self._read_at = now
                self._read_report()

    def paced(self, pulses: Mapping[int, Pulse]) -> None:
        """The last step of each rank of this pod."""
        with self._lock:
            self._pulses = pulses

    def judged(self, stragglers: tuple[Straggler, ...]) -> None:
        """Which ranks of the job are slower than the others, as node rank 0 finds."""
        with self._lock:
            self._stragglers = stragglers

    def pulses(self) -> Mapping[int, Pulse]:
        """The last step of each rank of this pod that has made one since the processes started."""
        with self._lock:
            return self._pulses

    def goodput(self) -> Goodput:
        with self._lock:
            return self._goodput.goodput()

    def progress(self) -> Progress:
        """The answer of /progress; the last words too, when a failure has been noted."""
        with self._lock:
            self._advance()
            report = self._report or Report()
            fields = report.model_dump() | {
                "job": self._settings.job,
                "pod": self._settings.pod,
                "generation": self._membership.generation if self._membership else 0,
                "attempt": self._membership.attempt if self._membership else 0,
                "round": self._round,
                "node_rank": self._membership.node_rank if self._membership else None,
                "process_restarts": self._process_restarts,
                "time": self._wall_clock().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "hangs": self._hangs,
                "silence": self._silence,
                "news": self._news,
                "failure": self._failure,
                "stragglers": self._stragglers,
                "goodput": self._goodput.goodput(),
            }
            return Progress.model_validate(fields)

    def _advance(self) -> None:
        self._goodput.advance(self._clock(), self._bucket())

    def _bucket(self) -> Bucket:
        late: Bucket = "recovery" if self._faulted else "startup"
        if not self._is_running:
            return "recovery" if self._faulted else "waiting"
        if self._report is None:
            # Only global rank 0 reports, and a user's script need not: then running is all that can be seen.
            return late if self._expects_report() else "productive"
        if self._report.phase == "checkpointing":
            return "checkpoint"
        if self._report.phase == "waiting":
            return "waiting"
        return "productive" if _has_stepped(self._report) else late

    def _expects_report(self) -> bool:
        is_first = self._membership is not None and self._membership.node_rank == 0
        return is_first and (self._settings.is_built_in or self._has_reported)

    def _read_report(self) -> None:
        report = self._parse_report()
        if report is None or report == self._report:
            return
        if self._report is None and report.resumed_step is not None:
            self._goodput.resumed(report.resumed_step)
        if report.step is not None and _has_stepped(report):
            self._goodput.stepped(report.step)
            self._faulted = False
        self._report, self._has_reported = report, True

    def _parse_report(self) -> Report | None:
        if self._report_file is None:
            return None
        try:
            with self._report_file.open("rb") as file:
                content = file.read(REPORT_MAX_BYTES + 1)
            if len(content) > REPORT_MAX_BYTES:
                return self._complain(f"larger than {REPORT_MAX_BYTES} bytes")
            return Report.model_validate_json(content)
        except FileNotFoundError:
            return None
        except ValidationError as error:
            first = error.errors()[0]
            return self._complain(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
        except OSError as error:
            return self._complain(error.strerror or str(error))

    def _complain(self, complaint: str) -> Report | None:
        if complaint != self._complaint:
            self._complaint = complaint
            self._log.warning("report ignored", path=self._report_file, reason=complaint)
        return None


def _has_stepped(report: Report) -> bool:
    """Whether these processes have completed a step of their own."""
    return report.step is not None and report.step > (report.resumed_step or 0)
