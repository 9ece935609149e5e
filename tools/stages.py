"""Runs the Makefile's verbs side by side: `python tools/stages.py [--keep-going] LANE…`, where a lane is verbs joined by commas.

Rules
- The verbs of a lane run one after the other, the lanes at the same time.
- What a verb prints is shown whole when it has ended, a line with its seconds above it; one that failed is shown last.
- The first failure ends everything, and so do Ctrl-C and SIGTERM: each verb is interrupted, has time to clean up what it
  started, and is killed when it takes longer. With --keep-going a failure ends nothing: all that failed is shown at the end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO

GRACE_S = 180.0
"""For a verb to end what it runs: a cluster with its nodes takes a minute on a busy machine."""
LOOK_EVERY_S = 0.1


class Stage:
    """One verb, started; its output goes to a file."""

    def __init__(self, verb: str) -> None:
        self.verb = verb
        self.code: int | None = None
        self.cpu_s = 0.0
        self._began = time.monotonic()
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it is open as long as the stage is there
        self._process = subprocess.Popen(
            [os.environ.get("MAKE", "make"), "--no-print-directory", verb],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def ended(self) -> bool:
        """Whether it has; from then on its seconds and its exit status are known."""
        if self.code is None:
            pid, status, used = os.wait4(self._process.pid, os.WNOHANG)
            if pid == 0:
                return False
            self.code = self._process.returncode = os.waitstatus_to_exitcode(status)
            self.cpu_s = used.ru_utime + used.ru_stime
            self.wall_s = time.monotonic() - self._began
        return True

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # nothing of it is left
            os.killpg(self._process.pid, number)

    @property
    def ending(self) -> str:
        return f"failed with exit status {self.code}" if self.code else "passed"

    def show(self, ending: str = "") -> None:
        """Prints how it ended and all that it said."""
        print(f"\n===== {self.verb}: {ending or self.ending}, {self.seconds} =====", flush=True)
        self._log.seek(0)
        sys.stdout.buffer.write(self._log.read())
        sys.stdout.flush()

    @property
    def seconds(self) -> str:
        return f"{self.wall_s:.0f} s (CPU {self.cpu_s:.0f} s)"


def run(lanes: Sequence[Sequence[str]], asked: Sequence[int], *, keep_going: bool = False) -> int:
    """Runs them all; answers the exit status of the first that failed, else 0.

    Args:
        asked: the signals that asked for the end, as they come.
        keep_going: whether what comes after a failure is run all the same.
    """
    waiting = [list(lane) for lane in lanes]
    running: dict[int, Stage] = {}
    done: list[Stage] = []
    began = time.monotonic()
    while any(waiting) or running:
        for number, lane in enumerate(waiting):
            if lane and number not in running:
                running[number] = Stage(lane.pop(0))
                print(f"{running[number].verb} …", flush=True)
        time.sleep(LOOK_EVERY_S)
        if asked:
            _stop(list(running.values()), asked)
            _show_failed(done)
            print(f"\nended by {signal.Signals(asked[0]).name}", flush=True)
            return 128 + asked[0]
        for number in [number for number, stage in running.items() if stage.ended()]:
            stage = running.pop(number)
            done.append(stage)
            if not stage.code:
                stage.show()
            elif keep_going:
                print(f"\n===== {stage.verb}: {stage.ending}; what it said comes last =====", flush=True)
            else:
                _stop(list(running.values()), asked)
                return _show_failed(done)
    status = _show_failed(done)
    print(f"\n===== {'failed' if status else 'all passed'}, {time.monotonic() - began:.0f} s =====")
    for stage in done:
        print(f"{stage.verb:15} {stage.seconds}{f', {stage.ending}' if stage.code else ''}")
    return status


def _show_failed(stages: Sequence[Stage]) -> int:
    """Shows those that failed; the exit status of the first one, else 0."""
    failed = [stage for stage in stages if stage.code]
    for stage in failed:
        stage.show()
    codes = [stage.code if stage.code > 0 else 128 - stage.code for stage in failed if stage.code]
    return codes[0] if codes else 0


def _stop(stages: Sequence[Stage], asked: Sequence[int]) -> None:
    """Ends them, and shows how far they came. Who asks once more doesn't wait for their cleaning up."""
    deadline, asked_before = time.monotonic() + GRACE_S, len(asked)
    for stage in stages:
        stage.send(signal.SIGINT)
    while not all([stage.ended() for stage in stages]) and time.monotonic() < deadline and len(asked) == asked_before:
        time.sleep(LOOK_EVERY_S)
    for stage in stages:
        stage.send(signal.SIGKILL)
        while not stage.ended():
            time.sleep(LOOK_EVERY_S)
        stage.show("stopped")


if __name__ == "__main__":
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: asked.append(number))
    keep_going = "--keep-going" in sys.argv
    sys.exit(run([a.split(",") for a in sys.argv[1:] if a != "--keep-going"], asked, keep_going=keep_going))
