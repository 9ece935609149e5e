"""What happened in a run, as one observer saw it: losses over time, interruptions, Events. Feeds display and report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from deepseek_operator.decide.types import Event, Observation, Progress

from deepseek_client.local.steplog import Step


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading of node rank 0's report."""

    time_s: float
    """Seconds since the run began."""
    generation: int
    step: int
    loss: float | None
    validation_loss: float | None
    tokens_per_second: float | None


@dataclass(frozen=True, slots=True)
class Interruption:
    """A worker that was lost on purpose, and how the job came back."""

    time_s: float
    pod: str
    generation: int
    """The generation that lost the worker."""
    step: int
    """Optimizer steps done at that moment."""
    checkpoint_step: int
    """The newest committed checkpoint at that moment."""
    resumed_step: int | None = None
    """The checkpoint that the next generation started from."""
    recovery_s: float | None = None
    """Seconds from the loss to the first optimizer step of the next generation."""
    caught_up_s: float | None = None
    """Seconds from the loss until the step was passed at which it happened."""


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An Event and when it came."""

    time_s: float
    type: str
    reason: str
    message: str


@dataclass(slots=True)
class History:
    """Grows while the run goes on; every time is in seconds since its beginning."""

    samples: list[Sample] = field(default_factory=list)
    segments: list[list[Step]] = field(default_factory=list)
    """Every step that was logged; a new list begins where training went back to a checkpoint."""
    interruptions: list[Interruption] = field(default_factory=list)
    events: list[LoggedEvent] = field(default_factory=list)
    checkpoints: set[int] = field(default_factory=set)
    """Steps of all checkpoints that were seen committed."""
    last: Progress | None = None
    wall_s: float = 0.0

    def observe(self, time_s: float, observation: Observation) -> None:
        """Takes in what was seen at a moment."""
        self.wall_s = time_s
        progress = observation.progress
        if progress is None:
            return
        self.last = progress
        if progress.checkpoint is not None:
            self.checkpoints.add(int(progress.checkpoint["step"]))
        self._follow_recovery(time_s, progress)
        if progress.step is None or progress.phase in ("starting", "preparing"):
            return
        sample = Sample(
            time_s=time_s,
            generation=progress.generation,
            step=progress.step,
            loss=progress.loss,
            validation_loss=progress.validation_loss,
            tokens_per_second=progress.tokens_per_second,
        )
        if not self.samples or replace(self.samples[-1], time_s=time_s) != sample:
            self.samples.append(sample)

    def logged(self, steps: Iterable[Step]) -> None:
        """Takes in steps from the log, in the order of time."""
        for step in steps:
            if not self.segments or self.segments[-1][-1].step >= step.step:
                self.segments.append([])
                self._precise_recovery(step)
            self.segments[-1].append(step)

    def _precise_recovery(self, first: Step) -> None:
        """The log knows the first step after an interruption to the millisecond."""
        if self.interruptions and first.time_s > self.interruptions[-1].time_s:
            last = self.interruptions[-1]
            self.interruptions[-1] = replace(last, recovery_s=first.time_s - last.time_s)

    def interrupt(self, time_s: float, pod: str, progress: Progress) -> None:
        """Notes that a worker is being taken away now."""
        checkpoint = int(progress.checkpoint["step"]) if progress.checkpoint else 0
        self.interruptions.append(
            Interruption(time_s, pod, progress.generation, progress.step or 0, checkpoint_step=checkpoint)
        )

    def log(self, time_s: float, event: Event) -> None:
        self.events.append(LoggedEvent(time_s, event.type, event.reason, event.message))

    def _follow_recovery(self, time_s: float, progress: Progress) -> None:
        if not self.interruptions or progress.step is None:
            return
        last = self.interruptions[-1]
        if progress.generation <= last.generation or progress.phase in ("starting", "preparing"):
            return
        resumed = progress.resumed_step or 0
        if last.resumed_step is None and progress.step > resumed:
            recovery_s = last.recovery_s if last.recovery_s is not None else time_s - last.time_s
            last = replace(last, resumed_step=resumed, recovery_s=recovery_s)
        if last.caught_up_s is None and progress.step > last.step:
            last = replace(last, caught_up_s=time_s - last.time_s)
        self.interruptions[-1] = last

    def lines(self) -> list[list[Step]]:
        """The training loss, one list for each start: from the log, else from what was polled."""
        if self.segments:
            return self.segments
        found: dict[int, list[Step]] = {}
        for sample in self.samples:
            if sample.loss is not None:
                found.setdefault(sample.generation, []).append(Step(sample.time_s, sample.step, sample.loss))
        return list(found.values())

    def curve(self) -> list[Step]:
        """The steps that were kept: what was done again after an interruption counts once."""
        kept: list[Step] = []
        for line in self.lines():
            kept = [step for step in kept if step.step < line[0].step] + line
        return kept

    def evaluations(self) -> list[Sample]:
        """The first sample of each new validation loss."""
        found: list[Sample] = []
        for sample in self.samples:
            if sample.validation_loss is not None and (
                not found or found[-1].validation_loss != sample.validation_loss
            ):
                found.append(sample)
        return found

    def as_json(self) -> dict[str, Any]:
        """Plain data for the report's JSON."""
        return {
            "samples": [asdict(sample) for sample in self.samples],
            "steps": [[asdict(step) for step in line] for line in self.lines()],
            "interruptions": [asdict(interruption) for interruption in self.interruptions],
            "events": [asdict(event) for event in self.events],
        }
