"""Every change that a process makes to the files below a folder, one at a time: it is stopped before each.

The process is traced (ptrace), so that nothing it does can be missed: Python, torch's C++ and libc all go through the
kernel. While it is stopped the folder is what a SIGKILL at that moment would leave. `Disk` says what a power cut would.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_X86 = {
    "write": 1,
    "pwrite64": 18,
    "writev": 20,
    "pwritev": 296,
    "pwritev2": 328,
    "sendfile": 40,
    "copy_file_range": 326,
    "open": 2,
    "creat": 85,
    "openat": 257,
    "openat2": 437,
    "fsync": 74,
    "fdatasync": 75,
    "sync_file_range": 277,
    "truncate": 76,
    "ftruncate": 77,
    "fallocate": 285,
    "rename": 82,
    "renameat": 264,
    "renameat2": 316,
    "mkdir": 83,
    "mkdirat": 258,
    "rmdir": 84,
    "unlink": 87,
    "unlinkat": 263,
    "link": 86,
    "linkat": 265,
    "symlink": 88,
    "symlinkat": 266,
    "mmap": 9,
    "io_uring_setup": 425,
}
_ARM = {
    "write": 64,
    "pwrite64": 68,
    "writev": 66,
    "pwritev": 70,
    "pwritev2": 287,
    "sendfile": 71,
    "copy_file_range": 285,
    "openat": 56,
    "openat2": 437,
    "fsync": 82,
    "fdatasync": 83,
    "sync_file_range": 84,
    "truncate": 45,
    "ftruncate": 46,
    "fallocate": 47,
    "renameat": 38,
    "renameat2": 276,
    "mkdirat": 34,
    "unlinkat": 35,
    "linkat": 37,
    "symlinkat": 36,
    "mmap": 222,
    "io_uring_setup": 425,
}
_NAMES = {number: name for name, number in (_ARM if platform.machine() == "aarch64" else _X86).items()}
_BY_DESCRIPTOR = {"write": 0, "pwrite64": 0, "writev": 0, "pwritev": 0, "pwritev2": 0, "fsync": 0, "fdatasync": 0}
_BY_DESCRIPTOR |= {"ftruncate": 0, "fallocate": 0, "sync_file_range": 0, "sendfile": 0, "copy_file_range": 2}
"""Which argument is the file."""
_BELOW = {
    "openat": 0,
    "openat2": 0,
    "renameat": 0,
    "renameat2": 0,
    "mkdirat": 0,
    "unlinkat": 0,
    "linkat": 0,
    "symlinkat": 1,
}
"""Which argument is the folder that the path, the next argument, is relative to; of the other calls the path is the first."""
_SYNCS = ("fsync", "fdatasync")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_SEIZE, _SYSCALL, _INTERRUPT, _GET_SYSCALL_INFO, _GET_EVENT_MESSAGE = 0x4206, 24, 0x4207, 0x420E, 0x4201
_WALL = 0x40000000
_SYSGOOD, _TRACECLONE, _EXITKILL = 1, 8, 0x100000
_ENTRY, _EVENT_CLONE = 1, 3
_SHARED, _WRITABLE = 1, 2


@dataclass(frozen=True)
class Stop:
    """What the process is about to do."""

    call: str
    path: str
    """Of what is changed; of a rename the old one."""


class Traced:
    """A process of the same user, seized while it waits for something.

    Args:
        folder: only changes below it are stopped at.
    """

    def __init__(self, pid: int, folder: Path) -> None:
        self._pid = pid
        self._folder = str(folder)
        self._threads = [pid]
        _ptrace(_SEIZE, pid, 0, _SYSGOOD | _TRACECLONE | _EXITKILL)
        _ptrace(_INTERRUPT, pid, 0, 0)

    def stops(self) -> Iterator[Stop]:
        """Lets the process go on to its next change, until it has ended; it stands still while a stop is looked at."""
        while self._threads:
            thread, status = self._next()
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                self._threads.remove(thread)
                continue
            number, event = os.WSTOPSIG(status), status >> 16
            if event == _EVENT_CLONE:
                made = ctypes.c_ulong()
                _ptrace(_GET_EVENT_MESSAGE, thread, 0, ctypes.addressof(made))
                self._threads.append(made.value)
            if number == signal.SIGTRAP | 0x80 and (stop := self._stop(thread)) is not None:
                yield stop
            _ptrace(_SYSCALL, thread, 0, 0 if event or number & 0x80 else number)

    def kill(self) -> None:
        """Kills the process, and lets its parent hear of that."""
        if self._threads:
            os.kill(self._pid, signal.SIGKILL)
        while self._threads:
            thread, status = self._next()
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                self._threads.remove(thread)

    def _next(self) -> tuple[int, int]:
        """The next thread that stops or ends."""
        if len(self._threads) == 1:
            return os.waitpid(self._threads[0], _WALL)
        while True:
            for thread in self._threads:
                found, status = os.waitpid(thread, _WALL | os.WNOHANG)
                if found:
                    return found, status
            time.sleep(0.0002)

    def _stop(self, thread: int) -> Stop | None:
        buffer = ctypes.create_string_buffer(88)
        _ptrace(_GET_SYSCALL_INFO, thread, len(buffer), ctypes.addressof(buffer))
        kind, number, *arguments = struct.unpack_from("<B23xQ6Q", buffer.raw)
        name = _NAMES.get(number, "")
        if kind != _ENTRY or not name:
            return None
        if name == "mmap":
            protection, flags, descriptor = arguments[2:5]
            shared = flags & _SHARED and protection & _WRITABLE and descriptor < 2**31
            assert not (shared and self._is_below(_opened(thread, descriptor))), "writes by mmap can't be seen"
            return None
        assert name != "io_uring_setup", "writes by io_uring can't be seen"
        flags_at = {"open": 1, "openat": 2}.get(name)
        if flags_at is not None and not arguments[flags_at] & _WRITES:
            return None
        path = self._path(thread, name, arguments)
        return Stop(name, path) if self._is_below(path) else None

    def _path(self, thread: int, name: str, arguments: list[int]) -> str:
        if name in _BY_DESCRIPTOR:
            return _opened(thread, arguments[_BY_DESCRIPTOR[name]])
        place = _BELOW.get(name)
        path = _text(thread, arguments[0 if place is None else place + 1])
        return path if place is None or path.startswith("/") else f"{_opened(thread, arguments[place])}/{path}"

    def _is_below(self, path: str) -> bool:
        return path == self._folder or path.startswith(f"{self._folder}/")


def _opened(thread: int, descriptor: int) -> str:
    """The path of an open file; "" if it has none."""
    number = ctypes.c_int32(descriptor & 0xFFFFFFFF).value
    try:
        return os.readlink(f"/proc/{thread}/cwd" if number < 0 else f"/proc/{thread}/fd/{number}")
    except FileNotFoundError:
        return ""


def _text(thread: int, address: int) -> str:
    """The C string at an address of a stopped process."""
    with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        return os.fsdecode(memory.read(4096).split(b"\0")[0])


@dataclass
class Disk:
    """What of a folder is on the disk, as far as POSIX promises it: what was synced, and not more.

    The folder is there from the beginning; `seen` is to be called at every stop.
    """

    folder: Path
    _content: dict[int, bytes] = field(default_factory=dict)
    _names: dict[int, dict[str, tuple[int, bool]]] = field(default_factory=dict)
    _held: dict[int, int] = field(default_factory=dict)
    _due: str = ""

    def trust(self) -> None:
        """All that is there now is on the disk."""
        for path in (self.folder, *self.folder.rglob("*")):
            self._sync(path)

    def seen(self, stop: Stop) -> None:
        """Takes in what the process has done since the last stop."""
        for path in (self.folder, *self.folder.rglob("*")):
            if (inode := path.stat().st_ino) not in self._held:  # held, so that its number is not given to another file
                self._held[inode] = os.open(path, os.O_RDONLY)
        if self._due:
            self._sync(Path(self._due))
        self._due = stop.path if stop.call in _SYNCS else ""

    def after_cut(self, target: Path) -> None:
        """What is left when all names and all content that were not synced are lost."""
        self._lay(self.folder.stat().st_ino, target)

    def after_cut_with_names(self, target: Path) -> None:
        """What is left when the names were written, and only content that was not synced is lost."""
        target.mkdir()
        for path in sorted(self.folder.rglob("*")):
            copy = target / path.relative_to(self.folder)
            if path.is_dir():
                copy.mkdir()
            else:
                copy.write_bytes(self._content.get(path.stat().st_ino, b""))

    def close(self) -> None:
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()

    def _sync(self, path: Path) -> None:
        inode = path.stat().st_ino
        if path.is_dir():
            self._names[inode] = {child.name: (child.stat().st_ino, child.is_dir()) for child in path.iterdir()}
        else:
            self._content[inode] = path.read_bytes()

    def _lay(self, inode: int, target: Path) -> None:
        target.mkdir()
        for name, (child, is_folder) in self._names.get(inode, {}).items():
            if is_folder:
                self._lay(child, target / name)
            else:
                (target / name).write_bytes(self._content.get(child, b""))


_libc = ctypes.CDLL(None, use_errno=True)


def _ptrace(request: int, pid: int, address: int, data: int) -> None:
    if _libc.ptrace(*map(ctypes.c_long, (request, pid, address, data))) == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"ptrace: {os.strerror(code)}")
