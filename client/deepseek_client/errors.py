"""What the client raises: one class for callers to catch, each message one line that names the remedy."""

from __future__ import annotations


class ClientError(Exception):
    """Something that the user can act on. `str()` of it is one line (a list of problems: one line each)."""

    exit_status = 2
    """Of the command that it ends."""


class ManifestError(ClientError):
    """A manifest is wrong; `problems` has one line for each wrong field."""

    def __init__(self, source: str, problems: list[str]) -> None:
        super().__init__("\n".join(f"{source}: {problem}" for problem in problems))
        self.source = source
        self.problems = problems


class NotFoundError(ClientError):
    """The API server knows no such job."""


class WaitTimeoutError(ClientError):
    """The job did not get where it was waited for in time."""


class NotExportedError(ClientError):
    """An export was tried, and the checkpoint or the target is at fault; there is no target."""

    exit_status = 1
