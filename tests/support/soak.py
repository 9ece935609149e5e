"""Job after job under random faults, until enough were injected; what came of each fault is a line of a table.

Written against a Target, which is the world: processes on this machine, or a cluster with nodes.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Protocol

from support.chaos import Fault, View, draw

ENDED = ("Succeeded", "Failed")
PATIENCE_S = 300.0
"""A job that doesn't get beyond the step at which it was disturbed for so long is stuck."""
POLL_S = 0.3
NOTICED_S = 2.0
"""By then every fault has hit: a step that is made later tells that it is got over."""
LONGEST_GAP_S = 2.0
"""Of undisturbed steps between two faults, at random."""


class Target(Protocol):
    """A world that can be looked at and broken. Whatever a call names may be gone already; then it does nothing."""

    def view(self) -> View:
        """The present job, its pods and the nodes; `under_way` is filled in by the caller."""

    def describe(self) -> str:
        """All that helps to understand why a job is stuck."""

    def start_job(self, number: int) -> None:
        """Submits the next job; from now on `view` is about this one."""

    def finish_job(self) -> None:
        """Checks what the job has left, after it has ended, and takes it away.

        Raises:
            AssertionError: it failed, or some data was not used exactly once.
        """

    def kill_process(self, pod: str, rank: int) -> None: ...
    def kill_pod(self, pod: str) -> None:
        """Deletes it by force: no grace."""

    def delete_pod(self, pod: str) -> None:
        """Deletes it with its grace, as a drain does."""

    def freeze(self, pod: str, rank: int | None) -> None:
        """SIGSTOP, for one training process or (None) for all of the pod."""

    def thaw(self, pod: str) -> None: ...
    def scale(self, workers: int) -> None: ...
    def suspend(self, wanted: bool) -> None: ...
    def operator_kill(self) -> None: ...
    def operator_start(self) -> None: ...
    def node_kill(self, node: str) -> None: ...
    def node_start(self, node: str) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """What became of one fault."""

    job: int
    at_s: float
    """Since the soak began."""
    step: int
    """The newest step at that moment."""
    fault: Fault
    stall_s: float
    """The longest time without a step that had not been made before, from the fault on. Steps that are made again count."""
    ended: bool = False
    """The job ended before it would have been got over."""


def say_at_once(line: str) -> None:
    """Prints a line that is seen at once, also in a file."""
    print(line, flush=True)


@dataclass
class Soak:
    """One soak. `clock` answers seconds, `sleep` waits; both are the test's own where time is not real."""

    target: Target
    random: Random
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    say: Callable[[str], None] = say_at_once
    only: Iterable[str] = ()
    """Kinds of faults to draw; none: all."""
    outcomes: list[Outcome] = field(default_factory=list)
    _undo: list[tuple[float, Fault]] = field(default_factory=list)
    _began: float = 0.0

    def run(self, *, faults: int, seconds: float) -> list[Outcome]:
        """Starts jobs until so many faults were injected or the time is over; the last one ends undisturbed.

        Raises:
            AssertionError: a job failed, is stuck, or its data was not used exactly once.
        """
        self._began = self.clock()
        job = 0
        while not self._enough(faults, seconds):
            job += 1
            self.target.start_job(job)
            self._train(job, faults, seconds)
            self._undo_due(everything=True)
            self.target.finish_job()
            self.say(f"{self._now():7.1f} s: job {job} ended after {len(self.outcomes)} faults")
        return self.outcomes

    def _train(self, job: int, faults: int, seconds: float) -> None:
        """Until the job has ended, under faults as long as they are to be injected."""
        moved, step = self.clock(), 0
        while (view := self._view()).state not in ENDED:
            if view.step != step:
                moved, step = self.clock(), view.step
            elif self.clock() > moved + PATIENCE_S:
                raise AssertionError(f"no step after {step} for {PATIENCE_S:g} s\n{self.target.describe()}")
            if self._enough(faults, seconds):
                self._undo_due(everything=True)
            else:
                self._disturb(job)
            self.sleep(POLL_S)

    def _enough(self, faults: int, seconds: float) -> bool:
        return len(self.outcomes) >= faults or self._now() >= seconds

    def _now(self) -> float:
        return self.clock() - self._began

    def _view(self) -> View:
        return replace(self.target.view(), under_way=frozenset(fault.kind for _, fault in self._undo))

    def _disturb(self, job: int) -> None:
        """Breaks one thing, waits until training has got over it, and lets it be for a moment."""
        self._undo_due()
        view = self._view()
        fault = draw(self.random, view, only=self.only) if view.step else None
        if fault is None:
            return
        at_s = self._now()
        self.say(f"{at_s:7.1f} s: job {job}, step {view.step}: {fault}")
        self._inject(fault)
        stall_s, ended = self._get_over(view.step, fault)
        self.outcomes.append(Outcome(job, at_s, view.step, fault, stall_s, ended))
        end = self.clock() + self.random.uniform(0, LONGEST_GAP_S)
        while self.clock() < end:
            self._undo_due()
            self.sleep(POLL_S)

    def _get_over(self, step: int, fault: Fault) -> tuple[float, bool]:
        """Waits for a new step after all have noticed the fault: the longest stall until then, whether the job ended."""
        began = moved = self.clock()
        stall_s = 0.0
        while self.clock() < moved + PATIENCE_S:
            self._undo_due()
            view, now = self._view(), self.clock()
            if view.state in ENDED:
                return max(stall_s, now - moved), True
            if view.step > step:
                stall_s, moved, step = max(stall_s, now - moved), now, view.step
                if now >= began + NOTICED_S:
                    return stall_s, False
            self.sleep(POLL_S)
        raise AssertionError(f"no step after {step} for {PATIENCE_S:g} s after {fault}\n{self.target.describe()}")

    def _inject(self, fault: Fault) -> None:
        target, what = self.target, fault.what
        match fault.kind:
            case "kill_process" | "kill_pod" | "delete_pod" | "scale":
                getattr(target, fault.kind)(**what)
            case "freeze_process" | "freeze_pod" | "hang_process":
                target.freeze(what["pod"], what.get("rank"))
            case "operator_restart":
                target.operator_kill()
                target.operator_start()
            case "operator_away":
                target.operator_kill()
            case "kill_node":
                target.node_kill(what["node"])
            case "suspend":
                target.suspend(True)
            case _:
                raise ValueError(f"nobody knows how to do {fault.kind}")
        if fault.lasts_s:
            self._undo.append((self.clock() + fault.lasts_s, fault))

    def _undo_due(self, *, everything: bool = False) -> None:
        due = [(at, fault) for at, fault in self._undo if everything or self.clock() >= at]
        self._undo = [entry for entry in self._undo if entry not in due]
        for _, fault in due:
            match fault.kind:
                case "freeze_process" | "freeze_pod":
                    self.target.thaw(fault.what["pod"])
                case "operator_away":
                    self.target.operator_start()
                case "kill_node":
                    self.target.node_start(fault.what["node"])
                case "suspend":
                    self.target.suspend(False)


def table(outcomes: list[Outcome]) -> str:
    """A line a fault, then a line a kind: how many, and their stalls in seconds (median, longest)."""
    lines = [f"{'at':>8} {'job':>4} {'step':>6}  {'fault':58} {'stall s':>8}"]
    lines += [
        f"{each.at_s:8.1f} {each.job:4} {each.step:6}  {each.fault!s:58} {each.stall_s:8.1f}"
        + (" (the job ended)" if each.ended else "")
        for each in outcomes
    ]
    kinds: dict[str, list[float]] = defaultdict(list)
    for each in outcomes:
        kinds[each.fault.kind].append(each.stall_s)
    lines += [f"{'kind':18} {'faults':>7} {'median s':>9} {'longest s':>10}"]
    lines += [
        f"{kind:18} {len(times):7} {statistics.median(times):9.1f} {max(times):10.1f}"
        for kind, times in sorted(kinds.items())
    ]
    return "\n".join(lines)
