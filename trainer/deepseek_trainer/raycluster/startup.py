"""What spares a raylet a death on a busy machine.

A raylet of Ray 2.60 aborts when its dashboard agent, a Python process that takes seconds of CPU to import, has not
written within 15 seconds to a file where it listens, and nothing sets another time. Here that agent serves nothing
(there is no dashboard), so this writes what the agent would write, as soon as the raylet is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_NOWHERE = "-1"
_FILE = "dashboard_agent_listen_port_"


def find(root: int, name: str) -> int | None:
    """The pid of the first descendant of a process that runs the program `name`; None while there is none."""
    return next((pid for pid in descendants(root) if Path(command_of(pid)[0]).name == name), None)


def answer_for_agent(raylet: int) -> None:
    """Writes where the agent of this raylet listens, if it has not done so itself."""
    flags = dict(part.lstrip("-").split("=", 1) for part in command_of(raylet) if part.startswith("--") and "=" in part)
    if not {"session_dir", "node_id"} <= flags.keys():
        return
    file = Path(flags["session_dir"], _FILE + flags["node_id"])
    if not file.exists():
        written = file.with_name(f".{file.name}")
        written.write_text(_NOWHERE)
        written.replace(file)


def descendants(root: int) -> Iterator[int]:
    """The pids of all processes below this one."""
    for children in Path("/proc", str(root), "task").glob("*/children"):
        try:
            pids = [int(pid) for pid in children.read_text().split()]
        except OSError:  # it has ended meanwhile
            continue
        for pid in pids:
            yield pid
            yield from descendants(pid)


def command_of(pid: int) -> list[str]:
    """The words that a process was started with; one empty word if it has ended."""
    try:
        return Path("/proc", str(pid), "cmdline").read_text().split("\0")
    except (OSError, UnicodeDecodeError):  # it has ended, or it is none of Ray's
        return [""]
