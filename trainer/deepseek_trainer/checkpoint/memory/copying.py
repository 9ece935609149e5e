"""A neighbour's files, fetched into this node's memory in a thread while steps go on.

What is wanted is always of the newest commit: a file of an older one is dropped when it arrives.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from deepseek_trainer.checkpoint.memory.peers import Peer, PeerError
from deepseek_trainer.checkpoint.memory.shelf import Shelf

log = logging.getLogger(__name__)

PIECE = 4 * 2**20


@dataclass(frozen=True)
class Wanted:
    """A file that is to be fetched.

    Attributes:
        sources: address and port of those who may have it, best first.
    """

    sha256: str
    bytes: int
    sources: tuple[tuple[str, int], ...]


class Copying:
    """One file at a time."""

    def __init__(self, shelf: Shelf, token: str) -> None:
        self._shelf, self._token = shelf, token
        self._lock = threading.Lock()
        self._wanted: dict[str, Wanted] = {}
        self._thread: threading.Thread | None = None

    def want(self, files: Sequence[Wanted]) -> None:
        """Has these files fetched, and no others any more."""
        with self._lock:
            self._wanted = {file.sha256: file for file in files}
            if self._wanted and self._thread is None:
                self._thread = threading.Thread(target=self._work, name="memory-copy", daemon=True)
                self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Whether nothing is left to be fetched, within the time."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        return thread is None or not thread.is_alive()

    def _work(self) -> None:
        while True:
            with self._lock:
                file = next(iter(self._wanted.values()), None)
                if file is None:
                    self._thread = None
                    return
            problem = self._fetch_somewhere(file)
            with self._lock:
                if self._wanted.get(file.sha256) is file:
                    del self._wanted[file.sha256]
                    if problem:
                        log.warning("no copy of a neighbour's part in memory: %s", problem)

    def _fetch_somewhere(self, file: Wanted) -> str:
        problem = ""
        for address, port in file.sources:
            problem = self._fetch(file, address, port)
            if not problem:
                break
        return problem

    def _fetch(self, file: Wanted, address: str, port: int) -> str:
        """What went wrong; "" when the file is there, or isn't wanted any more."""
        digest, copy = hashlib.sha256(), self._shelf.copy(instead=False)
        try:
            with closing(Peer(address, port, self._token)) as peer:
                for offset in range(0, file.bytes, PIECE):
                    piece = peer.read(file.sha256, offset, min(PIECE, file.bytes - offset))
                    digest.update(piece)
                    copy.write(memoryview(piece))
                    if copy.given_up or not self._is_wanted(file):
                        break
        except PeerError as error:
            copy.abandon()
            return str(error)
        with self._lock:
            if self._wanted.get(file.sha256) is not file:
                copy.abandon()
                return ""
            if digest.hexdigest() == file.sha256:
                copy.finish(file.sha256)
                return copy.given_up
        problem = copy.given_up or f"{address} has another content"
        copy.abandon()
        return problem

    def _is_wanted(self, file: Wanted) -> bool:
        with self._lock:
            return self._wanted.get(file.sha256) is file
