"""The check processes of this node in a preflight: started, listened to, and ended whatever state they are in.

They are processes of their own, so that a collective that hangs or crashes can't harm the agent; forks of the pod's
zygote where there is one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from pydantic import ValidationError

from deepseek_trainer.agent.session import Session
from deepseek_trainer.agent.settings import Settings
from deepseek_trainer.preflight.phases import measured_at_least_s
from deepseek_trainer.preflight.records import Arrival, Pair, Plan, Result
from deepseek_trainer.preflight.task import ENVIRONMENT, Event, Task

MODULE = "deepseek_trainer.preflight"
MUTE_S, MUTE_SHARE = 5.0, 0.1
"""A process is mute that gave no sign of life for so long, in seconds or as a share of the timeout."""
LAST_WORDS_S = 1.0
"""What a process has said is read by then once it has ended. A zygote that stands still may hold its output for ever."""


@dataclass
class Checker:
    """One process, and what it said."""

    process: subprocess.Popen[bytes]
    clock: Callable[[], float]
    heard_at: float
    events: list[Event] = field(default_factory=list)
    reader: threading.Thread | None = None
    ended_at: float | None = None

    def listen(self, lines: IO[bytes]) -> None:
        """Reads events until the process has ended; in a thread."""
        with lines:
            for line in lines:
                with contextlib.suppress(ValidationError):  # the torn last line of a process that was killed
                    event = Event.model_validate_json(line)
                    self.heard_at = self.clock()
                    if event.kind != "beat":
                        self.events.append(event)

    def said(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]

    @property
    def is_done(self) -> bool:
        return bool(self.said("reduce"))

    @property
    def error(self) -> str:
        """Why it ended without having finished; empty while it runs, and when it has."""
        if failed := self.said("failed"):
            return failed[0].error
        code = self.process.poll()
        if code is None or self._may_still_be_heard() or self.is_done:
            return ""
        return f"its check process died of {_signal_name(-code)}" if code < 0 else f"it ended with exit status {code}"

    def _may_still_be_heard(self) -> bool:
        """Whether something that it said before it ended may not have been read yet."""
        if self.ended_at is None:
            self.ended_at = self.clock()
        return self.reader is not None and self.reader.is_alive() and self.clock() - self.ended_at < LAST_WORDS_S


class Checkers:
    """All check processes of this node."""

    def __init__(
        self,
        task: Task,
        *,
        missing: str = "",
        environment: Mapping[str, str],
        mute_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts them.

        Args:
            task: of local rank 0; the others get the same with their own rank.
            missing: why the check can't run here, if it can't: then nothing is started.
            environment: variables beside the agent's own.
            mute_s: a process that has not given a sign of life for so long has stopped answering.
        """
        self._task = task
        self._missing = missing
        self._mute_s = mute_s
        self._clock = clock
        self.checkers = [self._start(local_rank, environment) for local_rank in range(0 if missing else task.procs)]

    def arrival(self) -> Arrival | None:
        """Said once all processes are ready, or one of them can't be."""
        errors = [self._missing, *(checker.error for checker in self.checkers)]
        if error := next(filter(None, errors), ""):
            return Arrival(error=error)
        ready = all(checker.said("ready") for checker in self.checkers)
        return Arrival(devices=self._task.procs if self._task.gpus else 0) if ready else None

    def go(self, seconds: float) -> None:
        """Lets them measure, for so long."""
        for checker in self.checkers:
            assert checker.process.stdin is not None  # noqa: S101 - asked for at the start
            with contextlib.suppress(BrokenPipeError):  # it has died; `result` will say so
                checker.process.stdin.write(f"{seconds}\n".encode())
                checker.process.stdin.flush()

    def result(self) -> Result | None:
        """Said once all have finished, or one has ended before."""
        if error := next((checker.error for checker in self.checkers if checker.error), ""):
            return self._result("crashed", error)
        return self._result("done") if all(checker.is_done for checker in self.checkers) else None

    def unfinished(self) -> Result:
        """What is to be said when the time is over and there is no result."""
        if error := next((checker.error for checker in self.checkers if checker.error), ""):
            return self._result("crashed", error)
        now = self._clock()
        if any(now - checker.heard_at > self._mute_s for checker in self.checkers if not checker.is_done):
            return self._result("mute")
        late = next(checker for checker in self.checkers if not checker.is_done)
        met = len(late.said("pair"))
        return self._result("stuck", f"after {met} pairs")

    def close(self) -> None:
        """Ends them at once."""
        for checker in self.checkers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(checker.process.pid, signal.SIGKILL)
            checker.process.wait()
            if checker.process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    checker.process.stdin.close()
            if checker.reader is not None:
                checker.reader.join(timeout=1)

    def command(self, task: Task) -> list[str]:
        """The command of one process; it dies with the agent."""
        bound = ("-S", str(Path(__file__).with_name("exec.py")), str(os.getpid()))
        return [sys.executable, *bound, sys.executable, "-m", MODULE, task.model_dump_json()]

    def _start(self, local_rank: int, environment: Mapping[str, str]) -> Checker:
        process = subprocess.Popen(
            self.command(self._task.model_copy(update={"local_rank": local_rank})),
            env={**os.environ, **environment, **ENVIRONMENT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        checker = Checker(process, self._clock, heard_at=self._clock())
        checker.reader = threading.Thread(target=checker.listen, args=(process.stdout,), name="checker", daemon=True)
        checker.reader.start()
        return checker

    def _result(self, end: Literal["done", "crashed", "mute", "stuck"], error: str = "") -> Result:
        """What the processes measured; a pair counts as the worst of them saw it."""
        pairs = [_worst(said) for said in _by_partner(event for one in self.checkers for event in one.said("pair"))]
        reduced = [event for checker in self.checkers for event in checker.said("reduce")]
        whole = _worst(reduced) if reduced else Event(kind="reduce")
        return Result(
            end=end,
            error=error,
            pairs=tuple(Pair(partner=pair.partner or 0, mbps=pair.mbps, error=pair.error) for pair in pairs),
            reduce_mbps=whole.mbps,
            reduce_error=whole.error,
        )


def _by_partner(events: Iterable[Event]) -> list[list[Event]]:
    found: dict[int | None, list[Event]] = {}
    for event in events:
        found.setdefault(event.partner, []).append(event)
    return list(found.values())


def _worst(events: Sequence[Event]) -> Event:
    return next((event for event in events if event.error), None) or min(events, key=lambda event: event.mbps or 0.0)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def start(
    settings: Settings, session: Session, plan: Plan, environment: Mapping[str, str], clock: Callable[[], float]
) -> Checkers:
    """The check processes of this pod for a round's preflight: one for each GPU with NCCL, a single one with gloo.

    Args:
        environment: variables for them, beside the agent's own.
    """
    membership = session.membership
    procs, gpus, missing = _backend(settings.backend, settings.proc_per_node)
    task = Task(
        node_rank=membership.node_rank,
        nodes=membership.nodes,
        local_rank=0,
        procs=procs,
        gpus=gpus,
        measured_s=measured_at_least_s(plan.timeout_s),
        master=membership.master,
        port=membership.port,
        key=session.room("preflight/group"),
    )
    mute_s = min(MUTE_S, MUTE_SHARE * plan.timeout_s)
    return Checkers(task, missing=missing, environment=environment, mute_s=mute_s, clock=clock)


def _backend(wanted: str, procs: int) -> tuple[int, bool, str]:
    """How many processes, whether each has a GPU, and why they can't have one, if they can't.

    Args:
        wanted: auto, nccl or gloo; auto takes nccl where GPUs are.
        procs: training processes of each node.
    """
    import torch

    gpus = 0 if wanted == "gloo" else torch.cuda.device_count()
    if wanted == "gloo" or (wanted == "auto" and not gpus):
        return 1, False, ""
    return procs, True, f"has {gpus} GPUs for {procs} processes" if gpus < procs else ""
