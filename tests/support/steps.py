"""What a job's workers really did, from the pods' own logs: each optimizer step, and each start of the processes."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO

from support.kubectl import Kubectl, KubectlError

_STEP = re.compile(r"^(\S+) INFO rank=0 step=(\d+) loss=(\S+) ")
_START = re.compile(r"^(\S+) INFO rank=0 set up .* ranks=(\d+) ")
POLL_S = 0.5
"""How often new pods are looked for; their logs are read from the beginning."""


@dataclass(frozen=True, slots=True, order=True)
class Step:
    """Global rank 0 has made an optimizer step."""

    time: float
    """Unix seconds, of the pod's clock."""
    step: int
    loss: float
    pod: str


@dataclass(frozen=True, slots=True, order=True)
class Start:
    """The training processes have begun, as a world of so many ranks."""

    time: float
    ranks: int
    pod: str


@dataclass(slots=True)
class StepLog:
    """Grows while the job runs; what deleted pods said is kept."""

    kubectl: Kubectl
    job: str
    _steps: list[Step] = field(default_factory=list)
    _starts: list[Start] = field(default_factory=list)
    _readers: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)

    def steps(self, since: float = 0.0) -> list[Step]:
        """Steps made after this moment, in their order."""
        with self._lock:
            return sorted(step for step in self._steps if step.time > since)

    def starts(self, since: float = 0.0) -> list[Start]:
        with self._lock:
            return sorted(start for start in self._starts if start.time > since)

    def next_step(self, fault: float) -> Step | None:
        """The first step of processes that were started after the fault; None while there is none."""
        starts = self.starts(fault)
        return next(iter(self.steps(starts[0].time)), None) if starts else None

    def follow(self) -> None:
        """Reads the logs of all pods of the job, until `end`."""
        while not self._over.wait(POLL_S):
            try:
                pods = self.kubectl.pods(self.job)
            except (KubectlError, subprocess.TimeoutExpired):
                continue
            for pod in pods:
                statuses = pod["status"].get("containerStatuses", [])
                if pod["metadata"]["name"] not in self._readers and statuses and "waiting" not in statuses[0]["state"]:
                    self._read(pod["metadata"]["name"])

    def end(self) -> None:
        """Stops reading; what was read stays."""
        self._over.set()
        for reader in self._readers.values():
            reader.kill()
            reader.wait()
        for thread in self._threads:
            thread.join(timeout=10)

    def _read(self, pod: str) -> None:
        command = [str(self.kubectl.binary), f"--kubeconfig={self.kubectl.kubeconfig}"]
        command += [f"--namespace={self.kubectl.namespace}", "logs", "--follow", pod]
        reader = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._readers[pod] = reader
        assert reader.stdout is not None
        thread = threading.Thread(target=self._parse, args=(pod, reader.stdout), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _parse(self, pod: str, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                text = line.partition("] ")[2]  # behind the agent's "[rank0] "
                if found := _STEP.match(text):
                    moment, step, loss = found.groups()
                    with self._lock:
                        self._steps.append(Step(_unix(moment), int(step), float(loss), pod))
                elif found := _START.match(text):
                    with self._lock:
                        self._starts.append(Start(_unix(found[1]), int(found[2]), pod))


def _unix(moment: str) -> float:
    return datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()


@contextmanager
def following(kubectl: Kubectl, job: str) -> Iterator[StepLog]:
    """The log of a job's steps, read in the background for as long as the block."""
    log = StepLog(kubectl, job)
    thread = threading.Thread(target=log.follow, daemon=True)
    thread.start()
    try:
        yield log
    finally:
        log.end()
        thread.join(timeout=60)
