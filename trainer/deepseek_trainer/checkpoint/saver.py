"""When a run saves, in which thread, and what becomes of training when a save fails: all that the loop knows of saving.

    a step is due ── copy into host memory ──► steps go on
                            └── a thread writes, hashes, fences, commits ──► the next step boundary says how it went
    the last step, SIGTERM, a planned move, mode Sync ── the same in the loop's own thread

Rules
- A checkpoint is of one step: weights, optimizer, ledger and audit are taken at the same boundary.
- One save is under way at most. By steps the next one waits for it, so that a checkpoint is of the step that was asked
  for; by the clock nothing waits, and the next one is taken at the first step after it.
- All ranks hear of a save's end at the same boundary: each says with the loss of a step whether its own is still under way.
- What fails is tried again when the next one is due, as long as `onFailure` has it so. To be fenced off ends the process,
  and so does a last save that fails: nothing comes after it.
- Rank 0 reads each checkpoint again once it is committed (`verifier`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from deepseek_trainer.checkpoint.author import Shown
from deepseek_trainer.checkpoint.flight import Flight, LostError
from deepseek_trainer.checkpoint.home import AnyWriter
from deepseek_trainer.checkpoint.interval import Interval, Past
from deepseek_trainer.checkpoint.staging import Staging
from deepseek_trainer.checkpoint.verifier import Verifier
from deepseek_trainer.config import CheckpointSpec
from deepseek_trainer.contract import CHECKPOINT_MESSAGE_LENGTH, CheckpointFailure, CheckpointInfo
from deepseek_trainer.data.audit.writer import AuditLog
from deepseek_trainer.data.feed import Feed
from deepseek_trainer.distributed.world import lost_peer
from deepseek_trainer.errors import FencedError, TrainerError, UnavailableError
from deepseek_trainer.logs import fields
from deepseek_trainer.marks import mark
from deepseek_trainer.progress import Progress

log = logging.getLogger(__name__)

LANDING_S = 30.0
"""How long a process that fails waits for a save under way: it is of a step before the failure, and worth having."""
BROKEN_LANDING_S = 3.0
"""The same when a peer is gone, without whom it can't be committed: the break of the connection ends the thread."""


class Saver:
    """The saves of one start of training. All ranks call the same methods after the same steps."""

    def __init__(
        self,
        spec: CheckpointSpec,
        writer: AnyWriter,
        progress: Progress,
        collect: Callable[[], dict[str, Any]],
        *,
        audit: AuditLog | None = None,
        saved_step: int | None = None,
        past: Past | None = None,
    ) -> None:
        """Args:
        collect: the state of this moment, of `state.collect`.
        audit: what is on the disk before a checkpoint is committed that it is the evidence of.
        saved_step: of the checkpoint that this start goes on from.
        past: of the job, on rank 0.
        """
        self.saved_step = saved_step
        """Of the newest checkpoint that is known to be committed."""
        self._spec, self._writer, self._progress = spec, writer, progress
        self._collect, self._audit = collect, audit
        self._interval = Interval(spec, past)
        self._staging = Staging()
        self._apart: AnyWriter | None = None
        self._flight: Flight | None = None
        self._failures = 0
        self._verifier = Verifier(writer.reread)
        self._again = False

    def signs(self) -> tuple[float, float, float]:
        """What this rank tells the others with a step: whether its save is under way, whether it has failed, and whether
        the clock says that one is due: rank 0's, as only one can."""
        flight, is_over = self._flight, float(self._writer.world.leader and (self._again or self._interval.is_over()))
        if flight is None or not flight.landed:
            return float(flight is not None), 0.0, is_over
        return 0.0, float(flight.error is not None), is_over

    def stepped(self, feed: Feed, signs: Sequence[float]) -> None:
        """A step is made, and not the last one: hears how the save under way went, and saves if it is time. A collective.

        Args:
            signs: of all ranks, summed.

        Raises:
            FencedError: a newer generation trains on this volume.
            UnavailableError: saving failed, and training may not go on without.
        """
        under_way, failed, is_over = signs
        self._hear_verdicts()
        self._interval.stepped(self._progress.last_step_s, beside=self._flight is not None)
        if self._flight is not None and not under_way:
            self._land(tell=failed > 0)
        if self._interval.is_step(feed.ledger.step) or (is_over and self._flight is None):
            with self._blocking():
                began = time.perf_counter()
                self._arrive()
                self._save(feed, began, wait=self._spec.mode == "Sync")

    def finish(self, feed: Feed, *, moving: bool = False) -> int:
        """No step comes after this one: returns when it is committed; the step. A collective.

        Args:
            moving: training goes on elsewhere, so a pod that goes leaves its part in a neighbour's memory.

        Raises:
            FencedError, UnavailableError: it could not be saved.
        """
        with self._blocking():
            began = time.perf_counter()
            self._arrive()
            if feed.ledger.step != self.saved_step:
                self._save(feed, began, wait=True, last=True, moving=moving)
            if moving and self._writer.memory is not None:
                self._writer.memory.hand_over(self._writer.world)
        return feed.ledger.step

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The process ends. If it fails, a save that is under way may still be committed."""
        if error is None:
            self._verifier.wait()
            self._hear_verdicts()
        else:
            self._verifier.leave()
        wait_s = BROKEN_LANDING_S if error is not None and lost_peer(error) else LANDING_S
        if self._flight is not None and not self._flight.wait(wait_s):
            log.warning("left the save of step %d, which is still under way", self._flight.step)

    @contextmanager
    def _blocking(self) -> Iterator[None]:
        """While no step is made."""
        self._progress.update(phase="checkpointing")
        with mark("checkpoint"):
            yield
        self._progress.update(phase="training")
        self._progress.started()

    def _save(self, feed: Feed, began: float, *, wait: bool, last: bool = False, moving: bool = False) -> None:
        self._interval.began()
        self._again = False
        ledger = feed.cut()
        if self._audit is not None:
            self._audit.cut()
        self._progress.update(epoch=ledger["epoch"], chain=ledger["chain"], data=feed.report())
        shown = Shown(self._progress.tokens, self._progress.report.loss, moving)
        if not wait:
            state = self._staging.copy(self._collect())
            writer = self._on_its_own()
            blocked_s = time.perf_counter() - began
            self._flight = Flight(ledger["step"], lambda: self._write(writer, state, ledger, shown, began, blocked_s))
            return
        try:
            self._succeeded(self._write(self._writer, self._collect(), ledger, shown, began, None))
        except TrainerError as error:
            self._failed(ledger["step"], error, bearable=not last)

    def _write(
        self,
        writer: AnyWriter,
        state: dict[str, Any],
        ledger: dict[str, Any],
        shown: Shown,
        began: float,
        blocked_s: float | None,
    ) -> CheckpointInfo:
        if self._audit is not None:
            writer.world.agree(self._audit.sync, on=lambda world: True)
        return writer.save(state, ledger, shown, began=began, blocked_s=blocked_s)

    def _on_its_own(self) -> AnyWriter:
        """The writer of the other thread. Its group is made when it is first needed: a start doesn't wait for it."""
        if self._apart is None:
            self._apart = replace(self._writer, world=self._writer.world.apart())
        return self._apart

    def _arrive(self) -> None:
        """Waits for the save that is under way."""
        if self._flight is not None:
            self._flight.wait()
            self._land(tell=True)

    def _land(self, *, tell: bool) -> None:
        """The save under way has ended on all ranks. With tell they tell each other how."""
        flight, self._flight = self._flight, None
        assert flight is not None  # noqa: S101  asked for by the callers
        errors = self._writer.world.gather(flight.error) if tell else [flight.error]
        error = next((error for error in errors if error is not None), None)
        if error is None and flight.saved is not None:
            self._succeeded(flight.saved)
        elif error is not None:
            self._failed(flight.step, error, bearable=True)

    def _succeeded(self, saved: CheckpointInfo) -> None:
        self._failures, self.saved_step = 0, saved.step
        self._interval.ended(saved.seconds, saved.blocked_seconds or 0.0)
        if not self._interval.by_steps:
            saved = saved.model_copy(update={"interval_seconds": round(self._interval.seconds(), 1)})
        self._progress.update(checkpoint=saved, checkpoint_failure=None)
        if self._writer.world.leader:
            self._verifier.read(saved.step, saved.path)
        log.info(
            "saved %s",
            fields(
                step=saved.step,
                path=saved.path,
                bytes=saved.bytes,
                seconds=saved.seconds,
                blocked_seconds=saved.blocked_seconds,
            ),
        )

    def _hear_verdicts(self) -> None:
        """Reports what reading the last checkpoint again came to; one that is damaged has the next one due."""
        for verdict in self._verifier.verdicts():
            saved = self._progress.report.checkpoint
            if not verdict.problem:
                log.info("verified %s", fields(step=verdict.step))
                if saved is not None and saved.step == verdict.step:
                    self._progress.update(checkpoint=saved.model_copy(update={"verified": True}))
                continue
            log.error("damaged %s", fields(step=verdict.step, problem=verdict.problem))
            self._again = True
            self._tell_failure(verdict.step, f"it was committed, and then {verdict.problem}")

    def _tell_failure(self, step: int, text: str) -> str:
        """Reports that there is no good checkpoint of the step; the message as it is told."""
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        message, failures = text[:CHECKPOINT_MESSAGE_LENGTH], max(1, self._failures)
        self._progress.update(
            checkpoint_failure=CheckpointFailure(step=step, time=now, failures=failures, message=message)
        )
        return message

    def _failed(self, step: int, error: TrainerError, *, bearable: bool) -> None:
        """Reports it, and raises it if training may not go on."""
        self._failures += 1
        message = self._tell_failure(step, str(error))
        bearable = bearable and isinstance(error, UnavailableError) and not isinstance(error, FencedError | LostError)
        if not bearable or self._spec.on_failure == "Fail":
            raise error
        if self._failures > self._spec.max_failures:
            raise UnavailableError(
                f"{self._failures} saves in a row failed (checkpoint.maxFailures); the last one: {error}"
            )
        log.error("not saved %s: training goes on; %s", fields(step=step, failures=self._failures), message)
