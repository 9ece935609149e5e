"""A process that has imported torch once and forks a training process each time one is asked for.

Most of what a restart costs is imports: seconds of CPU time for torch and transformers. `recovery.prewarm` pays them
once a pod, while nobody waits; torch's once for the agent and it, as it is a fork of the agent. Each fork is a process of
its own that runs the very command it would have run anyway: same arguments, environment, standard streams and working
directory; `exec.py` stands for it towards torch's agent.

Rules
- Nothing but imports happens before a fork: no thread, no CUDA context, no random number that two forks would share.
- A fork ends as an interpreter does (threads, exit handlers, open files), but takes nothing apart: each object that it
  lets go is in a page that it would have to copy, half a second of CPU time for torch and transformers.
- A fork dies with its zygote (death signal), with the process that stands for it (its lifeline), and so with the agent.
- The zygote never harms a start: if it can't import what it was told, the command is run plainly and says why itself.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import gc
import importlib
import io
import itertools
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from deepseek_trainer import imports
from deepseek_trainer.agent import stacks
from deepseek_trainer.agent.exec import PR_SET_PDEATHSIG

F_SETSIG = 10
"""fcntl: which signal tells of input on a descriptor (Linux)."""
FDS = 4
"""Standard input, output and error, and the lifeline."""
INTERPRETER_FLAGS = ("-u",)


class Request(NamedTuple):
    """What a fork becomes."""

    argv: list[str]
    """Interpreter, its flags, then `-m module args…` or `script args…`."""
    env: dict[str, str]
    cwd: str


def main() -> None:
    """`python -m deepseek_trainer.agent.zygote SOCKET MODULE…`."""
    serve(sys.argv[1], sys.argv[2:])


def serve(address: str, modules: Sequence[str]) -> NoReturn:
    """Imports the modules, then serves for ever; its forks run their commands and end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal's Ctrl-C the agent takes care
    # Listening before the imports are done: who asks meanwhile waits, and never longer than its own imports would take.
    listener = socket.socket(socket.AF_UNIX)
    bound = Path(f"{address}.new")  # who sees the address can connect to it
    bound.unlink(missing_ok=True)
    listener.bind(str(bound))
    listener.listen(64)
    bound.rename(address)
    with imports.lasting():
        for module in modules:
            importlib.import_module(module)
    warm_mark(address).touch()
    request = Server(listener).serve()
    end(_status_of(request))


def warm_mark(address: str) -> Path:
    """A file that is there once the zygote of this socket has imported everything."""
    return Path(f"{address}.warm")


class Server:
    """Forks on request and tells how each fork has ended."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)

    def serve(self) -> Request:
        """Serves for ever; returns in each fork, and only there, with what it has to run."""
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    if request := self._fork():
                        return request
                else:
                    self._tell(key.fd, *key.data)

    def _fork(self) -> Request | None:
        """Answers one request; in the fork, what to run."""
        connection, _ = self._listener.accept()
        try:
            request, fds = receive(connection)
        except (OSError, ValueError):  # who asked is gone
            connection.close()
            return None
        pid = os.fork()
        if pid == 0:
            become(request, fds)
            self._forget()
            connection.close()
            return request
        for fd in fds:
            os.close(fd)
        with contextlib.suppress(OSError):
            connection.sendall(f"{pid}\n".encode())
        self._selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, connection))
        return None

    def _forget(self) -> None:
        """In a fork: what belongs to the zygote and to its other forks is not this one's."""
        for key in self._selector.get_map().values():
            if key.data is not None:
                os.close(key.fd)
                key.data[1].close()
        self._selector.close()
        self._listener.close()

    def _tell(self, pidfd: int, pid: int, connection: socket.socket) -> None:
        self._selector.unregister(pidfd)
        os.close(pidfd)
        with contextlib.suppress(ProcessLookupError):  # the usual case: it has left nothing behind in its group
            os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(OSError), connection:
            connection.sendall(f"{status}\n".encode())


def receive(connection: socket.socket) -> tuple[Request, list[int]]:
    """One request with its descriptors.

    Raises:
        ValueError: the peer ended before it was whole.
    """
    head, fds, _, _ = socket.recv_fds(connection, 8, FDS)
    length = int.from_bytes(head, "big")
    chunks = bytearray()
    while len(head) == 8 and len(chunks) < length and (chunk := connection.recv(min(length - len(chunks), 1 << 20))):
        chunks += chunk
    if len(fds) != FDS or len(chunks) != length:
        for fd in fds:
            os.close(fd)
        raise ValueError("an incomplete request")
    return Request(**json.loads(chunks)), fds


def become(request: Request, fds: list[int]) -> None:
    """Makes this fork what the request says: streams, environment, folder, and whom it dies with."""
    *streams, lifeline = fds
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
        os.close(fd)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    die_with(lifeline)
    os.setsid()
    os.environ.clear()
    os.environ.update(request.env)
    os.chdir(request.cwd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stacks.register(os.environ)
    _own_randomness()
    _own_threads()


def die_with(lifeline: int) -> None:
    """Has the kernel kill this process once the other end of the pipe is closed, even if no Python code can run."""
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        if os.read(lifeline, 1) == b"":  # it was closed before the kernel was asked
            os.kill(os.getpid(), signal.SIGKILL)


def _own_randomness() -> None:
    """Forks share the state of numpy's global generator; `random` sees to itself, torch starts from a constant."""
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()


def _own_threads() -> None:
    """Torch read OMP_NUM_THREADS when it was imported; torchrun sets it for each process."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal() and (torch := sys.modules.get("torch")):
        torch.set_num_threads(int(threads))


def _status_of(request: Request) -> int:
    """Runs the command; its exit status, negative for a signal."""
    try:
        run(request)
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return (ended.code or 0) & 0xFF
        sys.stderr.write(f"{ended.code}\n")
        return 1
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        return -signal.SIGINT
    except BaseException:  # as an interpreter tells of it
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def end(status: int) -> NoReturn:
    """Does what an interpreter does at its end for others to see, and ends.

    Args:
        status: the exit status; negative: the signal to end by.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # as multiprocessing's forks do: waits for threads
    atexit._run_exitfuncs()
    for each in gc.get_objects():  # those of the zygote are not among them: they are frozen
        if issubclass(type(each), io.IOBase):
            with contextlib.suppress(OSError, ValueError):  # it is closed, or nobody reads it any more
                each.flush()
    ctypes.CDLL(None).fflush(None)
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def run(request: Request) -> None:
    """Runs the command as `python COMMAND` would; returns or raises as it does."""
    target = list(itertools.dropwhile(INTERPRETER_FLAGS.__contains__, request.argv[1:]))
    if target[0] == "-m":
        sys.argv = target[1:]
        sys.path[0] = request.cwd
        runpy.run_module(target[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = target
        sys.path[0] = str(Path(target[0]).resolve().parent)
        runpy.run_path(target[0], run_name="__main__")


if __name__ == "__main__":
    main()
