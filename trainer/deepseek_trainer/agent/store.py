"""One generation's store: torch's TCPStore, served by one member and used by all, behind calls that always return.

A TCPStore client blocks for ever on a host that is frozen (a stopped process, a node without power), and an agent
must never do that: it has a membership file to watch and a signal to obey. So each connection lives in a thread of
its own, a call waits for its answer at most `call_timeout_s`, and a connection that fails to answer is given up.
"""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from datetime import timedelta
from typing import Any, TypeVar

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]  # exported by a star

__all__ = ["PrefixStore", "Store", "StoreLink", "StoreLost", "StoreServers", "connect"]

T = TypeVar("T")

IDLE_EVERY_S = 0.2


class StoreLost(Exception):
    """The store can't be reached, or did not answer in time."""


class StoreLink:
    """A connection to a store, made and used in a thread of its own."""

    def __init__(
        self,
        open_store: Callable[[], Store],
        *,
        idle: Callable[[], None] = lambda: None,
        call_timeout_s: float = 10.0,
    ) -> None:
        """Args: idle: called while an answer is awaited; what it raises ends the wait, and the link stays usable."""
        self._calls: queue.SimpleQueue[tuple[Callable[[Store], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._idle = idle
        self._call_timeout_s = call_timeout_s
        self._opened: Future[Store] = Future()
        self._lost = ""
        threading.Thread(target=self._serve, args=(open_store,), name="store", daemon=True).start()

    @property
    def is_open(self) -> bool:
        """Connected, and no call has failed."""
        return self._opened.done() and self._opened.exception() is None and not self._lost

    @property
    def lost(self) -> str:
        """Why the connection is no use any more; empty while it is being made or works."""
        if not self._lost and self._opened.done() and (error := self._opened.exception()) is not None:
            self._lost = _reason(error)
        return self._lost

    @property
    def store(self) -> Store:
        return self._opened.result(timeout=0)

    def set(self, key: str, value: str) -> None:
        self._call(lambda store: store.set(key, value))

    def check(self, keys: Sequence[str]) -> bool:
        """Whether all keys exist."""
        return bool(self._call(lambda store: store.check(list(keys))))

    def get(self, keys: Sequence[str]) -> list[str]:
        """Values of keys that exist."""
        return [bytes(value).decode() for value in self._call(lambda store: store.multi_get(list(keys)))]

    def claim(self, key: str, value: str) -> str:
        """Sets the key unless it exists; answers what it then holds, so the first one to claim wins."""
        return bytes(self._call(lambda store: store.compare_set(key, "", value))).decode()

    def close(self) -> None:
        self._lost = self._lost or "closed"
        self._calls.put(None)

    def _call(self, operation: Callable[[Store], T]) -> T:
        if not self.is_open:
            raise StoreLost(self.lost or "not connected yet")
        answer: Future[T] = Future()
        self._calls.put((operation, answer))
        self._await(answer)
        if (error := answer.exception()) is not None:  # torch raises RuntimeError for every broken connection
            self._lost = _reason(error)
            raise StoreLost(self._lost) from error
        return answer.result()

    def _await(self, answer: Future[Any]) -> None:
        end = time.monotonic() + self._call_timeout_s
        while not wait([answer], timeout=min(IDLE_EVERY_S, self._call_timeout_s)).done:
            self._idle()
            if time.monotonic() >= end:
                self._lost = f"no answer within {self._call_timeout_s:g} s"
                raise StoreLost(self._lost)

    def _serve(self, open_store: Callable[[], Store]) -> None:
        try:
            store = open_store()
        except Exception as error:  # handed to whoever asks, by `lost`
            self._opened.set_exception(error)
            return
        self._opened.set_result(store)
        while (call := self._calls.get()) is not None:
            operation, answer = call
            try:
                answer.set_result(operation(store))
            except Exception as error:  # handed to the caller
                answer.set_exception(error)


class StoreServers:
    """The stores that this process serves, one a port, each kept until the process is done.

    Keys carry the generation, so a process that hosts a second generation on the same port goes on with the
    server it has: members may arrive there before the process itself has heard of the new generation.
    """

    def __init__(self, address: str | None) -> None:
        """Args: address: the pod's, to which the servers are bound; None binds to all."""
        self._address = address
        self._servers: dict[int, TCPStore] = {}

    def serve(self, port: int) -> Store:
        """The store on this port of this pod.

        Raises:
            OSError: the port is taken by another process.
        """
        if port not in self._servers:
            listener = _listen(self._address or "", port)
            self._servers[port] = TCPStore(
                self._address or "127.0.0.1",
                port,
                is_master=True,
                wait_for_workers=False,
                timeout=timedelta(seconds=30),
                master_listen_fd=listener.detach(),
            )
        return self._servers[port]

    def close(self) -> None:
        self._servers.clear()


def connect(master: str, port: int, *, timeout_s: float = 3.0) -> Store:
    """A client of the store at master, an address or a name.

    Raises:
        OSError: the name does not resolve (yet), or nobody listens (yet).
    """
    with socket.create_connection((master, port), timeout=timeout_s) as probe:
        address = probe.getpeername()[0]
    return TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=timeout_s))


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if address and ipaddress.ip_address(address).version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(4096)
    except OSError:
        listener.close()
        raise
    return listener


def _reason(error: BaseException) -> str:
    """First line of the error: torch appends pages of C++ frames."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]
