"""The operator's loop for one job on this machine: observe, decide, apply, until the job ended.

`decide` is the operator's own; everything else that is here only carries values to it and from it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from types import FrameType
from typing import Protocol

from deepseek_operator.api.names import State
from deepseek_operator.api.v1alpha1 import DeepSeekJob
from deepseek_operator.decide.types import Event, Observation, Plan

from deepseek_client.local.fault import KillOne
from deepseek_client.local.history import History
from deepseek_client.local.steplog import StepLog
from deepseek_client.local.world import LocalWorld

TICK_S = 0.25
Decide = Callable[[Observation], Plan]


class View(Protocol):
    """What shows a run to a person."""

    def update(self, job: DeepSeekJob, history: History) -> None:
        """Called once a tick."""

    def event(self, time_s: float, event: Event) -> None:
        """Called for every Event."""


@dataclass(slots=True)
class Interrupt:
    """The signals that ask the run to end: the first politely, the second at once."""

    number: signal.Signals | None = None
    count: int = 0

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        self.number = self.number or signal.Signals(number)
        self.count += 1


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """SIGINT and SIGTERM are noted instead of raised; the earlier handlers come back at the end."""
    interrupt = Interrupt()
    earlier = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


class LocalRun:
    """Drives one LocalWorld to its end."""

    def __init__(
        self,
        world: LocalWorld,
        view: View,
        decide: Decide,
        fault: KillOne | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.world = world
        self.history = History()
        self._view = view
        self._decide = decide
        self._fault = fault
        self._clock = clock
        self._sleep = sleep
        self._began = clock()
        self._steps = StepLog(datetime.now())  # the logs are in local time

    def run(self, interrupt: Interrupt) -> DeepSeekJob:
        """Until the job succeeded or failed, or the interrupt came. No pod's process is left in any case.

        Raises:
            ClientError: a pod can't be started on this machine.
        """
        try:
            while not interrupt.count:
                self._pass()
                if self.world.job.status.state in (State.SUCCEEDED, State.FAILED):
                    break
                self._sleep(TICK_S)
            self._wind_down(interrupt)
        finally:
            self.world.close()
        return self.world.job

    def _pass(self) -> None:
        observation = self.world.observe()
        self.history.logged(self._steps.read(self.world.log_files()))
        self.history.observe(self._now(), observation)
        events = self.world.apply(self._decide(observation))
        for event in events:
            self._announce(event)
        self._view.update(self.world.job, self.history)
        self._strike(observation)

    def _strike(self, observation: Observation) -> None:
        found = self._fault.victim(observation) if self._fault else None
        if found is None:
            return
        self._fault = None
        pod, progress = found
        self._announce(
            Event(
                "Warning", "WorkerKilled", f"--kill-one: killing {pod} at step {progress.step}, as if its machine died"
            )
        )
        self.history.interrupt(self._now(), pod, progress)
        self.world.vanish(pod)

    def _announce(self, event: Event) -> None:
        self.history.log(self._now(), event)
        self._view.event(self._now(), event)

    def _wind_down(self, interrupt: Interrupt) -> None:
        self.world.terminate()
        while not self.world.gone() and interrupt.count <= 1:
            self._sleep(TICK_S / 5)

    def _now(self) -> float:
        return self._clock() - self._began
