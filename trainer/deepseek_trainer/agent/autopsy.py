"""Describes the training processes of this pod at a hang, before they are killed: a file for each rank.

Never raises and always ends: a process that can't answer is described by what the kernel says of it, and a volume that
can't be written within the time is left alone; the files are then in the run directory.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepseek_trainer import pulse
from deepseek_trainer.agent import dumps, flight, process, stacks
from deepseek_trainer.agent.log import EventLog
from deepseek_trainer.agent.settings import Settings
from deepseek_trainer.agent.verdict import FROZEN

ANSWER_S = 3.0
"""How long processes may take to write their stacks and NCCL's record."""
QUIET_S = 0.5
"""A file that has not grown for so long is whole."""
VOLUME_S = 5.0


@dataclass(frozen=True, slots=True)
class Rank:
    """One training process, and the files that it shares with the agent."""

    rank: int
    started_pid: int
    """Of the process that the agent started: it may stand for one that was forked elsewhere."""
    start: str
    pulse: Path
    stacks: Path

    @property
    def pid(self) -> int:
        """Of the training process itself."""
        return stacks.pid_in(_text(self.stacks)) or self.started_pid


class Autopsy:
    """One look at all ranks of this pod."""

    def __init__(
        self, settings: Settings, ranks: Sequence[Rank], log: EventLog, pause: Callable[[float], None]
    ) -> None:
        self._settings = settings
        self._ranks = ranks
        self._log = log
        self._pause = pause
        self._pids = {rank.rank: rank.pid for rank in ranks}
        self._first_states = {rank.rank: process.state(self._pids[rank.rank]) for rank in ranks}

    def perform(self, generation: int, round_number: int) -> Path:
        """Writes what can be found out; the folder in which it is."""
        found = self._collect()
        root = self._settings.checkpoint_dir
        if root is not None and self._is_written(root, generation, round_number, found):
            return dumps.folder_of(root, generation, round_number)
        self._is_written(self._settings.run_dir, generation, round_number, found)
        return dumps.folder_of(self._settings.run_dir, generation, round_number)

    def lasting_state(self, rank: Rank) -> str:
        """The state of the process; an uninterruptible wait only if it was in it at first, too."""
        first, now = self._first_states[rank.rank], process.state(self._pids[rank.rank])
        return "" if now == "D" and first != "D" else now

    def _collect(self) -> dict[str, bytes]:
        """Content by the name of the file."""
        before = {rank.rank: _size(rank.stacks) for rank in self._ranks}
        flights = {rank.rank: flight.ask(self._settings.run_dir, rank.start, rank.rank) for rank in self._ranks}
        asked = [rank for rank in self._ranks if self._ask(rank)]
        self._await(
            {rank.stacks: before[rank.rank] for rank in asked}
            | {path: 0 for path in flights.values() if path is not None}
        )
        found = {f"rank-{rank.rank}.txt": self._describe(rank, before[rank.rank]).encode() for rank in self._ranks}
        for number, path in flights.items():
            if path is not None and (content := _bytes(path, dumps.FLIGHT_MAX_BYTES)):
                found[f"rank-{number}.flight"] = content
        return found

    def _ask(self, rank: Rank) -> bool:
        """Has a process write its stacks, if it can."""
        pid = self._pids[rank.rank]
        if self._first_states[rank.rank] in FROZEN or not process.handles(pid, stacks.SIGNAL):
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, stacks.SIGNAL)
            return True
        return False

    def _await(self, files: Mapping[Path, int]) -> None:
        """Returns when all files have grown beyond these sizes, and none grows any more."""
        sizes = dict(files)
        changed_at = began = time.monotonic()
        while files and (now := time.monotonic()) - began < ANSWER_S:
            if now - changed_at >= QUIET_S and all(sizes[path] > size for path, size in files.items()):
                return
            self._pause(0.05)
            if (seen := {path: _size(path) for path in files}) != sizes:
                sizes, changed_at = seen, time.monotonic()

    def _describe(self, rank: Rank, skip: int) -> str:
        """Args: skip: bytes of the file of stacks that are older than this hang."""
        settings, pid = self._settings, self._pids[rank.rank]
        found = pulse.read(rank.pulse)
        shown = _text(rank.stacks)[skip:].strip()
        parts = [
            f"rank {rank.rank} of pod {settings.pod} on node {settings.node or 'unknown'}, process {pid}",
            f"pulse: {found}" if found is not None else "pulse: none",
            process.describe(pid),
            shown or "no Python stacks: the process can't answer",
        ]
        return "\n\n".join(parts) + "\n"

    def _is_written(self, root: Path, generation: int, round_number: int, found: dict[str, bytes]) -> bool:
        """Whether it was, in time. A volume that is gone can hold a process up for ever: hence a thread."""
        folder = dumps.folder_of(root, generation, round_number)
        errors: list[OSError] = []

        def write() -> None:
            try:
                for name, content in found.items():
                    dumps.write(folder, name, content, dumps.limit_of(name))
                dumps.prune(root)
            except OSError as error:
                errors.append(error)

        writer = threading.Thread(target=write, name="hang dumps", daemon=True)
        writer.start()
        end = time.monotonic() + VOLUME_S
        while writer.is_alive() and time.monotonic() < end:
            self._pause(0.05)
        if errors or writer.is_alive():
            self._log.warning("stacks not written", folder=folder, reason=errors[0] if errors else "no answer in time")
        return not errors and not writer.is_alive()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _bytes(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError:
        return b""


def _text(path: Path) -> str:
    return _bytes(path, dumps.FILE_MAX_BYTES).decode(errors="replace")
