"""Shards tokenised before they are leased, by the job's Ray nodes: so that a rank finds them made.

Nothing depends on it: a shard's file appears whole or not at all and is the same whoever made it, and a rank that finds none
makes it. The shards that are leased next are left to the ranks, as Ray needs seconds to begin.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from deepseek_trainer.data import parts
from deepseek_trainer.data.dynamic.leases import Desk
from deepseek_trainer.data.dynamic.supply import Lack
from deepseek_trainer.data.parts import Part
from deepseek_trainer.data.processes import Executor
from deepseek_trainer.errors import TrainerError, first_line

log = logging.getLogger(__name__)

SHARDS = 256
"""So many are looked at ahead."""
_WORTH = SHARDS // 4
"""After the first time fewer than these aren't worth a driver of their own."""
_LOOK_EVERY_S = 1.0


class Ahead:
    """A thread of rank 0."""

    def __init__(self, desk: Desk, part: Callable[[int], Part | Lack], execute: Executor, *, left: int) -> None:
        """Begins at once.

        Args:
            part: the shard of a lease.
            execute: who makes shards.
            left: how many of the next leases are the ranks' own business.
        """
        self._desk, self._part, self._execute, self._left = desk, part, execute, left
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="ahead", daemon=True).start()

    def close(self) -> None:
        """Begins nothing any more; what is under way ends with the process."""
        self._closed.set()

    def _run(self) -> None:
        worth = 2
        try:
            while not self._closed.is_set():
                if len(todo := self._todo()) >= worth:
                    self._execute(parts.make, list(todo.values()))
                    self._remove_forgotten(todo)
                    worth = _WORTH
                self._closed.wait(_LOOK_EVERY_S)
        except TrainerError:  # of a stream: the ranks hear of it as well
            return
        except Exception as error:
            log.warning("no shard is tokenised ahead any more: %s: %s", type(error).__name__, first_line(error))

    def _todo(self) -> dict[int, Part]:
        """The coming shards that aren't tokenised, each once, by lease."""
        found: dict[Path, tuple[int, Part]] = {}
        for lease in self._desk.coming(SHARDS)[self._left :]:
            part = self._part(lease.number)
            if isinstance(part, str):
                break
            if not part.path.exists():
                found.setdefault(part.path, (lease.number, part))
        return dict(found.values())

    def _remove_forgotten(self, made: Mapping[int, Part]) -> None:
        """Removes those of a stream that the ranks were done with before they were made here: nobody else would."""
        for lease, part in made.items():
            if isinstance(self._part(lease), str):
                part.path.unlink(missing_ok=True)
