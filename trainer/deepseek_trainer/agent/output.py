"""The training processes' stdout and stderr: shown live with the rank in front, the last lines kept as evidence.

torch's own log collector writes files that grow without end in the pod and reads them back. Here each stream is a
named pipe: torch opens it for the process as if it were a file, one thread of the agent reads all of them.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from torch.distributed.elastic.multiprocessing.api import LogsDest, LogsSpecs

from deepseek_trainer.agent.failure import TRACEBACK, is_frame, plain

KEPT_LINES = 50
MAX_LINE_BYTES = 8192


@dataclass
class Stream:
    """One stream of one process. `tail` has its last lines, without C++ stack frames."""

    descriptor: int
    prefix: bytes
    sink: BinaryIO
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))
    traceback_at: float | None = None
    """Unix seconds at which the first traceback appeared."""
    partial: bytes = b""


class Output(LogsSpecs):
    """Where torch's agent is told to send the output of its processes; one set of pipes for each start."""

    def __init__(self, directory: Path, out: BinaryIO, err: BinaryIO, clock: Callable[[], float] = time.time) -> None:
        super().__init__(str(directory))
        self._directory = directory
        self._sinks = {"stdout": out, "stderr": err}
        self._clock = clock
        self._streams: dict[tuple[int, str], Stream] = {}
        self._reader: threading.Thread | None = None
        self._ended = threading.Event()
        self._last: dict[tuple[int, str], Stream] = {}
        self._starts = 0

    @property
    def root_log_dir(self) -> str:
        return str(self._directory)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Fresh pipes and error files for one start of the processes; called by torch's agent."""
        self.drain()
        self._starts += 1
        room = self._directory / f"start-{self._starts}"
        shutil.rmtree(room, ignore_errors=True)
        room.mkdir(parents=True)
        selector = selectors.DefaultSelector()
        paths: dict[str, dict[int, str]] = {"stdout": {}, "stderr": {}}
        for local_rank, env in envs.items():
            env["TORCHELASTIC_ERROR_FILE"] = str(self._error_file(local_rank))
            for name, sink in self._sinks.items():
                path = room / f"{local_rank}.{name}"
                stream = Stream(_pipe(path), f"[rank{env['RANK']}] ".encode(), sink)
                self._streams[local_rank, name] = stream
                selector.register(stream.descriptor, selectors.EVENT_READ, stream)
                paths[name][local_rank] = str(path)
        self._ended.clear()
        self._reader = threading.Thread(target=self._read, args=(selector,), name="output", daemon=True)
        self._reader.start()
        # torch would raise on an error file that a dying process left half written, so it is not told of them.
        return LogsDest(paths["stdout"], paths["stderr"], {}, {}, dict.fromkeys(envs, os.devnull), "", "")

    def drain(self) -> None:
        """Shows and keeps all that the processes of the last start have written; to be called when they ended."""
        if self._reader is None:
            return
        self._ended.set()
        self._reader.join()
        self._reader = None
        for stream in self._streams.values():
            os.close(stream.descriptor)
        self._last, self._streams = self._streams, {}
        shutil.rmtree(self._directory / f"start-{self._starts - 1}", ignore_errors=True)

    def stderr_tail(self, local_rank: int) -> list[str]:
        stream = self._streams.get((local_rank, "stderr")) or self._last.get((local_rank, "stderr"))
        return list(stream.tail) if stream else []

    def traceback_at(self, local_rank: int) -> float | None:
        """Unix seconds of the first traceback on this process' stderr."""
        stream = self._streams.get((local_rank, "stderr")) or self._last.get((local_rank, "stderr"))
        return stream.traceback_at if stream else None

    def error_text(self, local_rank: int) -> str:
        """What the process wrote with torch's `@record`, raw JSON; empty when it did not."""
        try:
            return self._error_file(local_rank).read_text(errors="replace")[:65536]
        except OSError:
            return ""

    def _error_file(self, local_rank: int) -> Path:
        return self._directory / f"start-{self._starts}" / f"{local_rank}.error.json"

    def _read(self, selector: selectors.BaseSelector) -> None:
        with selector:
            while not self._ended.is_set():
                for key, _ in selector.select(timeout=0.05):
                    self._pump(key.data)
            for key in selector.get_map().values():
                self._pump(key.data)
                self._emit(key.data, [key.data.partial] if key.data.partial else [])

    def _pump(self, stream: Stream) -> None:
        """Forwards what the pipe holds."""
        while True:
            try:
                chunk = os.read(stream.descriptor, 65536)
            except BlockingIOError:
                return
            if not chunk:  # every writer has closed; nothing comes until the next one opens
                self._ended.wait(0.01)
                return
            *lines, stream.partial = (stream.partial + chunk).split(b"\n")
            if len(stream.partial) > MAX_LINE_BYTES:
                lines, stream.partial = [*lines, stream.partial], b""
            self._emit(stream, lines)

    def _emit(self, stream: Stream, lines: list[bytes]) -> None:
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            if not is_frame(text):
                stream.tail.append(text[:1024])
            if stream.traceback_at is None and plain(text).startswith(TRACEBACK):
                stream.traceback_at = self._clock()
        if lines:
            with contextlib.suppress(OSError, ValueError):  # nobody reads the agent's own output any more
                stream.sink.write(b"".join(stream.prefix + line.rstrip(b"\r") + b"\n" for line in lines))
                stream.sink.flush()


def _pipe(path: Path) -> int:
    """A named pipe, opened for reading before any writer exists; non-blocking."""
    os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)
