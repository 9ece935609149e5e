"""How many bytes a file in memory may still take: never so many that the container would run out of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

SPARE = 256 * 2**20
"""Of the container's memory, left to training."""
_CGROUP = Path("/sys/fs/cgroup")


def left(folder: Path, limit: int, cgroup: Path = _CGROUP) -> int:
    """The least of what the limit, the file system and the container's memory allow; below zero where it is too much already."""
    free = os.statvfs(folder)
    return min(limit - taken(folder), free.f_bavail * free.f_frsize, of_the_container(cgroup))


def taken(folder: Path) -> int:
    """Bytes of the files in a folder."""
    total = 0
    for entry in os.scandir(folder):
        try:
            total += entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            continue  # another process has just deleted it
    return total


def of_the_container(cgroup: Path = _CGROUP) -> int:
    """Bytes up to its limit, but for SPARE; what the kernel can drop (files that are on a disk) counts as free."""
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        if limit == "max":
            return sys.maxsize
        used = int((cgroup / "memory.current").read_text())
        said = dict(line.split()[:2] for line in (cgroup / "memory.stat").read_text().splitlines())
        return int(limit) - used + int(said["active_file"]) + int(said["inactive_file"]) - SPARE
    except (OSError, ValueError, KeyError):
        return sys.maxsize  # no cgroup, or one of an older kind: the limit and the file system are left
