"""What can go wrong in a way that a user or an operator can act on, and the exit status that says so.

Each message is one line: the object, what is wrong with it, and the remedy. `__main__` prints it and ends with
`exit_code`; anything else that is raised is a defect of the trainer or of the machine and keeps its traceback.
"""

from __future__ import annotations

from deepseek_trainer.contract import ExitCode


class TrainerError(Exception):
    """Base of the errors that end a training process in good order."""

    exit_code = ExitCode.USER_ERROR


class RollbackError(TrainerError):
    """Training is to go on from the last checkpoint, and to leave out some steps.

    Attributes:
        steps: their numbers, from 1.
    """

    def __init__(self, message: str, steps: range) -> None:
        super().__init__(message)
        self.steps = steps


class DataError(TrainerError):
    """The data or a checkpoint can't be read, or isn't what it was; another try can't help."""

    exit_code = ExitCode.DATA_ERROR


class UnavailableError(TrainerError):
    """A volume, a peer or the rendezvous could not be reached; another try may help."""

    exit_code = ExitCode.UNAVAILABLE


class PeerLostError(UnavailableError):
    """A peer went away or stayed silent: this process is a victim, and what happened is its peer's to say."""


class FencedError(UnavailableError):
    """A newer generation trains on the same volume: this process must not write to it any more."""


class PreemptedError(TrainerError):
    """SIGTERM arrived; what had to be saved is saved."""

    exit_code = ExitCode.PREEMPTED


def first_line(error: BaseException) -> str:
    """The first line of any error's text, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
