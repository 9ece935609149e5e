"""A save under way: a thread that writes and commits while the steps go on.

Its collectives are on a group of its own (`World.apart`): on one group they would mix with those of the training
thread. The thread ends with the process, so that no peer that stays silent can keep a process that has failed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from deepseek_trainer.contract import CheckpointInfo
from deepseek_trainer.errors import TrainerError, UnavailableError

THREAD = "checkpoint-"
"""How the names of threads begin that are about checkpoints."""


def is_any_under_way() -> bool:
    """Whether a save is under way in this process.

    The interpreter must not end in order then: a thread that comes back from C++ while it does so aborts the process.
    """
    return any(thread.name.startswith(THREAD) for thread in threading.enumerate())


class Flight:
    """One save on its way. Made on all ranks; `error` is the same on all, unless the way between them broke."""

    def __init__(self, step: int, work: Callable[[], CheckpointInfo]) -> None:
        """Takes off.

        Args:
            step: of the state.
            work: writes and commits; a collective.
        """
        self.step = step
        self.saved: CheckpointInfo | None = None
        self.error: TrainerError | None = None
        self._work = work
        self._thread = threading.Thread(target=self._fly, name=f"{THREAD}{step}", daemon=True)
        self._thread.start()

    @property
    def landed(self) -> bool:
        return not self._thread.is_alive()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether it has landed within the time; None: however long it takes."""
        self._thread.join(timeout_s)
        return self.landed

    def _fly(self) -> None:
        try:
            self.saved = self._work()
        except TrainerError as error:
            self.error = error
        except Exception as error:
            self.error = LostError(f"the way to the other ranks broke while saving: {type(error).__name__}: {error}")


class LostError(UnavailableError):
    """A save whose ranks could not tell each other how it went: nobody knows whether it is committed."""
