"""Processes that take turns on one machine: each trains for some steps while all others are stopped.

Whatever else makes the machine slow makes all of them slow alike, so that ratios hold where seconds don't. A process says
`step=N loss=X` after each step; the time between two such lines is a step's, but for the first one after it was woken.
"""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from types import TracebackType
from typing import Self

_STEP = re.compile(r"\bstep=(\d+) loss=(\S+)")
DEADLINE_S = 600.0


class Runner:
    """One process that trains, and what it has said."""

    def __init__(self, name: str, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self.name = name
        self.losses: list[float] = []
        self.set_up_bytes = 0
        """Resident memory when the model had its weights, where the process says `set up`."""
        self._ends: list[float] = []
        self._said: list[str] = []
        self._news = threading.Condition()
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, env=os.environ | environ, stdout=pipe, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def steps(self, count: int) -> list[float]:
        """Seconds of so many steps from now on; the process is awake for them alone.

        Raises:
            AssertionError: it ended, or took too long.
        """
        seen = len(self._ends)
        self._process.send_signal(signal.SIGCONT)
        self._await(seen + count + 1)
        self._process.send_signal(signal.SIGSTOP)
        ends = self._ends[seen : seen + count + 1]
        return [after - before for before, after in pairwise(ends)]

    def ended(self) -> int:
        """Waits for its end; the most memory that was resident, in bytes."""
        _, status, used = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._reader.join()
        assert self._process.returncode == 0, f"{self.name} ended with {self._process.returncode}:\n{self._tail()}"
        return used.ru_maxrss * 1024

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _await(self, lines: int) -> None:
        with self._news:
            arrived = self._news.wait_for(lambda: len(self._ends) >= lines or not self._reader.is_alive(), DEADLINE_S)
        assert arrived, f"{self.name} made no step for {DEADLINE_S:g} s:\n{self._tail()}"
        assert len(self._ends) >= lines, f"{self.name} has ended:\n{self._tail()}"

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            now = time.perf_counter()
            with self._news:
                self._said.append(line)
                if " set up " in line:
                    self.set_up_bytes = _resident(self._process.pid)
                if said := _STEP.search(line):
                    self._ends.append(now)
                    self.losses.append(float(said[2]))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def _tail(self) -> str:
        return "".join(self._said[-30:])


class Turns:
    """Runners of the same steps. Use as a context: all are killed at its end."""

    def __init__(self, commands: Mapping[str, tuple[Sequence[str], Mapping[str, str]]], *, warm_up: int) -> None:
        """Starts them one after the other; each makes some steps that don't count."""
        self.runners: dict[str, Runner] = {}
        with ExitStack() as started:
            for name, (command, environ) in commands.items():
                runner = Runner(name, command, environ)
                started.callback(runner.kill)
                self.runners[name] = runner
                runner.steps(warm_up)
            self._started = started.pop_all()

    def rounds(self, count: int, *, steps: int) -> dict[str, list[float]]:
        """The median seconds of a step, by runner and round."""
        found: dict[str, list[float]] = {name: [] for name in self.runners}
        for _ in range(count):
            for name, runner in self.runners.items():
                found[name].append(statistics.median(runner.steps(steps)))
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._started.close()


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times longer ours take, round by round; the median."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def _resident(pid: int) -> int:
    """Bytes of a process' memory that are there now."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0
