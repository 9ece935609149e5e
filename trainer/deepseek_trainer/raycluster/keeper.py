"""Keeps one node of the job's Ray cluster alive: starts it, sees it end, and starts it again.

It is started again in place, after one to thirty seconds, and never given up: a raylet ends whenever its head was
lost, and a container that ended each time would be held back by the kubelet for up to five minutes. A head that
comes back is an empty, new cluster; nothing in it has to be found again. SIGTERM ends everything within seconds.

A raylet is not left to notice by itself that its head was lost: for half a minute it would ask the new one without a
pause, which refuses it as another cluster's, and both take a whole processor for that.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping

from deepseek_trainer.raycluster import command, startup
from deepseek_trainer.raycluster.session import is_lost, unreachable
from deepseek_trainer.raycluster.settings import Settings

log = logging.getLogger(__name__)

_LOOK_S = 0.2
_ASK_S = 0.5
"""A head takes longer than that to start again."""
_STEADY_S = 60.0
"""Whoever ran for so long is started again at once."""
_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
_REMINDER_S = 60.0
_END_S = 3.0
"""For Ray's own end; then it is killed."""


class Keeper:
    """One container's loop. Made once, in the main thread: it takes SIGTERM and SIGINT."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._command = command.build(settings)
        self._environment = command.environment(environ)
        self._stopping = threading.Event()
        self._ask_at = 0.0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def run(self) -> None:
        """Returns after SIGTERM or SIGINT."""
        ended_early = 0
        while not self._stopping.is_set():
            if self._settings.role == "node":
                self._await_head()
            if self._stopping.is_set():
                break
            began = time.monotonic()
            self._run_once()
            if self._stopping.is_set():
                break
            ran_s = time.monotonic() - began
            ended_early = 0 if ran_s >= _STEADY_S else ended_early + 1
            pause_s = _PAUSES_S[min(ended_early, len(_PAUSES_S) - 1)]
            log.warning("ray %s ended after %.0f s; again in %g s", self._settings.role, ran_s, pause_s)
            self._wait(pause_s, lambda: False)

    def _run_once(self) -> None:
        """Runs `ray start` until it or its raylet ends, or the end was asked for; nothing of it is left."""
        self._clean()
        log.info("ray %s starts at %s", self._settings.role, self._settings.address)
        process = subprocess.Popen(self._command, env=self._environment, start_new_session=True)
        try:
            self._wait(None, lambda: process.poll() is not None or _help(process.pid))
            # `ray start` takes a raylet that ended with status 0 for a good end, and stays without it for ever.
            self._wait(
                None,
                lambda: (
                    process.poll() is not None or startup.find(process.pid, "raylet") is None or self._head_is_lost()
                ),
            )
            if self._stopping.is_set():
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_END_S)
        finally:
            _kill(process)

    def _await_head(self) -> None:
        since = time.monotonic()
        told = None
        while not self._stopping.is_set() and (problem := unreachable(self._settings.head, self._settings.ports.gcs)):
            now = time.monotonic()
            if told is None or now - told >= _REMINDER_S:
                log.info("waiting for the head %s for %.0f s: %s", self._settings.head, now - since, problem)
                told = now
            self._wait(1.0, lambda: False)

    def _head_is_lost(self) -> bool:
        """Asked often, it looks now and then."""
        if self._settings.role == "head" or time.monotonic() < self._ask_at:
            return False
        lost = is_lost(self._settings.head, self._settings.ports.gcs)
        self._ask_at = time.monotonic() + _ASK_S
        if lost:
            log.warning("the head %s is lost, and with it this cluster", self._settings.head)
        return lost

    def _clean(self) -> None:
        """Removes what an earlier run left: its sockets and logs, and the note that a cluster runs here."""
        for leftover in (*self._settings.folder.glob("session_*"), self._settings.folder / "ray_current_cluster"):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)

    def _wait(self, seconds: float | None, done: Callable[[], bool]) -> None:
        """Returns when it is done, the seconds are over, or the end was asked for."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not (self._stopping.is_set() or done() or (deadline is not None and time.monotonic() >= deadline)):
            time.sleep(_LOOK_S)

    def _stop(self, number: int, frame: object) -> None:
        self._stopping.set()


def _help(pid: int) -> bool:
    """Whether the raylet is there; it is told then what it would wait for."""
    if (raylet := startup.find(pid, "raylet")) is None:
        return False
    startup.answer_for_agent(raylet)
    return True


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends what is left of it, and reaps what was left to this process, which may be the first of its container."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
