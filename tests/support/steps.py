"""What a job's workers really did, from the pods' own logs: each optimizer step, and each start of the processes."""

from __future__ import annotations

import math
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, Any

from support.kubectl import Kubectl

_STEP = re.compile(r"^(\S+) INFO rank=0 step=(\d+) loss=(\S+) ")
_START = re.compile(r"^(\S+) INFO rank=0 set up .* ranks=(\d+) ")
POLL_S = 0.5
"""How often new pods are looked for; their logs are read from the beginning."""
AGAIN_S = 5.0
"""How soon a log is read again after its reader has ended: where a node is away it would end again at once."""


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
    """Grows while the job runs; what deleted pods said is kept. What is read twice counts once."""

    kubectl: Kubectl
    job: str
    _steps: set[Step] = field(default_factory=set)
    _starts: set[Start] = field(default_factory=set)
    _readers: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    _begun: dict[str, float] = field(default_factory=dict)
    """When each of them was started, on the monotonic clock."""
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

    def by_start(self) -> list[tuple[Start, list[Step]]]:
        """The starts of which steps are known, and their steps. What belongs together is said by one pod."""
        steps = self.steps()
        starts = self.starts()  # after them, so that none of theirs is missing
        found = []
        for start in starts:
            end = min((other.time for other in starts if other.pod == start.pod and other > start), default=math.inf)
            own = [step for step in steps if step.pod == start.pod and start.time < step.time <= end]
            found += [(start, own)] if own else []
        assert sum(len(own) for _, own in found) == len(steps), "steps were made before any start"
        return found

    def next_step(self, fault: float) -> Step | None:
        """The first step of processes that were started after the fault; None while there is none."""
        starts = self.starts(fault)
        return next(iter(self.steps(starts[0].time)), None) if starts else None

    def follow(self) -> None:
        """Reads the logs of all pods of the job, until it is told that it is over.

        Whatever goes wrong (the API server is busy, a pod goes meanwhile) may be right at the next look.
        """
        while not self._over.wait(POLL_S):
            try:
                for pod in self.kubectl.pods(self.job):
                    if self._is_unread(pod):
                        self._read(pod["metadata"]["name"])
            except Exception as error:
                print(f"the logs of {self.job} are not followed for a moment: {error!r}")

    def _is_unread(self, pod: dict[str, Any]) -> bool:
        """Whether a pod has a log that nobody reads to its end: the connection to its node may have been lost."""
        statuses = pod["status"].get("containerStatuses", [])
        if not statuses or "waiting" in statuses[0]["state"]:
            return False
        name = pod["metadata"]["name"]
        if name not in self._readers:
            return True
        ended = self._readers[name].poll()
        gone = ended is not None and (ended != 0 or "running" in statuses[0]["state"])
        return gone and time.monotonic() > self._begun[name] + AGAIN_S

    def begin(self) -> None:
        """Reads in the background, until `end`."""
        thread = threading.Thread(target=self.follow, daemon=True)
        self._threads.append(thread)
        thread.start()

    def end(self) -> None:
        """Stops reading; what was read stays."""
        self._over.set()
        self._threads[0].join(timeout=60)  # nobody begins to read any more
        for reader in list(self._readers.values()):
            reader.kill()
            reader.wait()
        for thread in self._threads:
            thread.join(timeout=10)

    def _read(self, pod: str) -> None:
        command = [str(self.kubectl.binary), f"--kubeconfig={self.kubectl.kubeconfig}"]
        command += [f"--namespace={self.kubectl.namespace}", "logs", "--follow", pod]
        reader = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._readers[pod], self._begun[pod] = reader, time.monotonic()
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
                        self._steps.add(Step(_unix(moment), int(step), float(loss), pod))
                elif found := _START.match(text):
                    with self._lock:
                        self._starts.add(Start(_unix(found[1]), int(found[2]), pod))


def _unix(moment: str) -> float:
    return datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()


@contextmanager
def following(kubectl: Kubectl, job: str) -> Iterator[StepLog]:
    """The log of a job's steps, read in the background for as long as the block."""
    log = StepLog(kubectl, job)
    log.begin()
    try:
        yield log
    finally:
        log.end()
