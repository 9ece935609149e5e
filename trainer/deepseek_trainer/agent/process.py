"""What Linux says of a process, without any right beyond that of its user."""

from __future__ import annotations

from pathlib import Path

NAMES = ("State", "VmRSS", "Threads", "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")
PLACES = ("wchan", "syscall", "stack")
PF_EXITING = 4
FLAGS = 6
"""Place of the flags among the fields of /proc/PID/stat that follow the name."""


def state(pid: int) -> str:
    """Its state's letter: R, S, D, T …; "" when there is no such process (any more)."""
    return _status(pid).get("State", "")[:1]


def is_ending(pid: int) -> bool:
    """Whether it has begun to end, or is gone: then its peers may know of it, though nobody has been told its status."""
    fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return not fields or fields[0] in "ZX" or bool(int(fields[FLAGS]) & PF_EXITING)


def handles(pid: int, number: int) -> bool:
    """Whether it has a handler for that signal: without one the signal would end it."""
    try:
        return bool(int(_status(pid).get("SigCgt", "0"), 16) >> (number - 1) & 1)
    except ValueError:
        return False


def describe(pid: int) -> str:
    """For people: its state, and where in the kernel each of its threads waits, as far as that may be read."""
    status = _status(pid)
    lines = [f"{name}: {status[name]}" for name in NAMES if name in status]
    for place in PLACES:
        text = _read(Path(f"/proc/{pid}/{place}"))
        if text and text != "0":
            lines.append(f"{place}: {text}")
    return "\n".join(lines) or "the process is gone"


def _status(pid: int) -> dict[str, str]:
    pairs = (line.partition(":") for line in _read(Path(f"/proc/{pid}/status")).splitlines())
    return {name: value.strip() for name, _, value in pairs}


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
