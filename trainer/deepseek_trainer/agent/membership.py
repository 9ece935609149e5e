"""Reads the membership file: which generation this pod is in, and as what.

The file is a downward-API volume's: kubelet swaps a symlinked folder, so one read is never half old and half
new. It may be absent or empty at first, and it becomes empty when the annotation is removed. It only ever moves
forward: an older generation than one already seen is not a membership.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from deepseek_trainer.agent.log import EventLog
from deepseek_trainer.contract import Membership


class MembershipChanged(Exception):
    """The file names another generation than the one that this agent is in or joins."""


class MembershipFile:
    """The newest membership that the file has shown."""

    def __init__(self, path: Path, log: EventLog) -> None:
        self._path = path
        self._log = log
        self._newest: Membership | None = None
        self._complaint = ""

    @property
    def path(self) -> Path:
        return self._path

    def read(self) -> Membership | None:
        """This pod's membership now; None when it is in no generation.

        An unreadable or invalid file leaves the last answer as it was, and is logged once.
        """
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return self._newest
        except OSError as error:
            return self._complain(f"{error.strerror or error}")
        if not content.strip():
            self._newest = None
            return None
        try:
            found = Membership.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            return self._complain(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
        if found.node_rank >= found.nodes:
            return self._complain(f"nodeRank {found.node_rank} is not below nodes {found.nodes}")
        return self._accept(found)

    def _accept(self, found: Membership) -> Membership | None:
        newest = self._newest
        if newest is None or found.generation > newest.generation:
            self._newest = found
        elif found != newest:
            return self._complain(f"generation {found.generation} does not follow {newest.generation}: ignored")
        self._complaint = ""
        return self._newest

    def _complain(self, complaint: str) -> Membership | None:
        if complaint != self._complaint:
            self._complaint = complaint
            self._log.warning("membership file ignored", path=self._path, reason=complaint)
        return self._newest
