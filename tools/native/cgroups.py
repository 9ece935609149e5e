"""The control groups of a node, on v1 (one tree a controller) and v2 (one tree)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from native import processes
from native.errors import NativeError

ROOT = Path("/sys/fs/cgroup")


def trees(root: Path = ROOT) -> list[Path]:
    """Folders under which a group has to be made: the root on v2, each controller's on v1."""
    if (root / "cgroup.controllers").exists():
        return [root]
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink() and path.name != "unified")


def create(name: str, root: Path = ROOT) -> None:
    """Makes an empty group of this name in every tree, ready to have children.

    On a busy machine it gets as much time as a process for each processor: the kernel's default is that of one process,
    however many pods there are.
    """
    processors = os.cpu_count() or 1
    for tree in trees(root):
        group = tree / name
        group.mkdir(exist_ok=True)
        if (tree / "cgroup.controllers").exists():
            for folder in (tree, group):
                wanted = (folder / "cgroup.controllers").read_text().split()
                (folder / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in wanted))
        for setting in ("cpuset.cpus", "cpuset.mems"):  # v1 leaves them empty, and an empty set admits nobody
            if (tree / setting).exists() and not (tree / "cgroup.controllers").exists():
                (group / setting).write_text((tree / setting).read_text())
        for setting, of_a_process, most in (("cpu.weight", 100, 10_000), ("cpu.shares", 1024, 262_144)):  # v2, v1
            if (group / setting).exists():
                (group / setting).write_text(str(min(most, of_a_process * processors)))


def remove(prefix: str, root: Path = ROOT) -> None:
    """Removes every group whose name starts with prefix, with its children; its processes must have ended.

    Raises:
        NativeError: a process still is in one after a minute.
    """
    for group in existing(prefix, root):
        _remove(group)


def existing(prefix: str, root: Path = ROOT) -> list[Path]:
    """Groups whose name starts with prefix; runc also makes them in the v2 tree that v1 machines have beside."""
    return [group for tree in (*trees(root), root / "unified") for group in tree.glob(f"{prefix}*")]


def _remove(group: Path) -> None:
    def state() -> str:
        return f"processes in it: {(group / 'cgroup.procs').read_text().split()}"

    processes.wait_until(lambda: _removed(group), 60, f"control group {group} is empty", state)


def _removed(group: Path) -> bool:
    """Tries to remove the group and all below it, deepest first."""
    if not group.exists():
        return True
    below = sorted((path for path in group.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts))
    try:
        for folder in (*below, group):
            folder.rmdir()
    except OSError as error:
        if error.errno == errno.EBUSY:  # processes that were killed have not been reaped yet
            return False
        if error.errno == errno.ENOENT:
            return not group.exists()
        raise NativeError(f"control group {group} can't be removed: {error.strerror}") from error
    return True
