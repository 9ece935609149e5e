"""Whether the world has gone on without this pod: it was frozen, or cut off, and woke in a generation that is over.

    a round starts ──► node rank 0 writes (job, generation) into the job's folder on the checkpoint volume
    every agent reads it ──► newer than its own: its processes are killed, no round is entered any more
                                └─ its file names no newer generation within --fence-grace-s ──► it ends, exit status 69

Rules
- A generation's first round starts when all its members have left the one before: nobody is interrupted who still saves.
- A volume may hang, and an agent never does: reading and writing have a thread of their own.
- What another job of the same name has written says nothing. A job without a volume has no fence but its membership.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from torch.distributed.elastic.rendezvous.api import RendezvousTimeoutError

from deepseek_trainer import durable
from deepseek_trainer.agent.log import EventLog

FILE = "generation.json"
LOOK_EVERY_S = 2.0


class GenerationOverError(RendezvousTimeoutError):
    """This pod was not told of the generation that has begun."""


class _Mark(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    job: str
    generation: int


class Fence:
    """The newest generation that has begun, as the volume shows it."""

    def __init__(
        self, folder: Path | None, job: str, log: EventLog, clock: Callable[[], float], *, fenced_s: float
    ) -> None:
        """The fence of one agent.

        Args:
            folder: the job's, on the checkpoint volume.
            job: tells one job from another of the same name (its UID).
            fenced_s: a membership file follows its annotation within a second, and at the latest with the kubelet's next
                look at the pod, a minute or two later.
        """
        self._path = folder / FILE if folder is not None else None
        self._job = job
        self._log = log
        self._clock = clock
        self._fenced_s = fenced_s
        self._begun = 0
        self._newest = 0
        self._fenced_at: float | None = None
        self._news = threading.Event()
        if self._path is not None:
            threading.Thread(target=self._keep, args=(self._path,), name="fence", daemon=True).start()

    def begin(self, generation: int) -> None:
        """A round of this generation starts."""
        self._begun = generation
        self._news.set()

    def is_over(self, generation: int) -> bool:
        """Whether a newer generation has begun."""
        over = self._newest > generation
        if over and self._fenced_at is None:
            self._fenced_at = self._clock()
            self._log.warning("the world has gone on", newest=self._newest, own=generation)
        if not over:
            self._fenced_at = None
        return over

    def bear(self, generation: int) -> None:
        """Called while this agent waits to be told a newer generation.

        Raises:
            GenerationOverError: it has waited long enough.
        """
        if self.is_over(generation) and self._fenced_at is not None:
            waited_s = self._clock() - self._fenced_at
            if waited_s >= self._fenced_s:
                raise GenerationOverError(
                    f"generation {self._newest} has begun, and this pod, which is in generation {generation}, was not told "
                    f"of it for {waited_s:.0f} s: it is not wanted any more"
                )

    def _keep(self, path: Path) -> None:
        while True:
            self._news.clear()
            with contextlib.suppress(OSError):  # the volume is for the training processes to complain about
                self._exchange(path)
            self._news.wait(LOOK_EVERY_S)

    def _exchange(self, path: Path) -> None:
        try:
            found = _Mark.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            found = _Mark(job=self._job, generation=0)
        newest = found.generation if found.job == self._job else 0
        if self._begun > newest:
            staged = path.with_suffix(f".{uuid.uuid4().hex}.tmp")
            durable.write_json(staged, _Mark(job=self._job, generation=self._begun).model_dump())
            durable.rename(staged, path)
        self._newest = max(newest, self._begun)
