"""A loopback address of its own for every local pod, so that each can listen on the same ports as in a cluster.

An address is leased by holding a UDP socket on it: the kernel keeps the lease, ends it when this process ends
however that happens, and so two runs side by side never take each other's addresses.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

from deepseek_operator.api.names import AGENT_PORT

from deepseek_client.errors import ClientError


class AddressBook:
    """Pod name -> leased loopback address. Only Linux routes all of 127.0.0.0/8 to itself unasked."""

    def __init__(self, port: int = AGENT_PORT) -> None:
        self.port = port
        self._leases: dict[str, tuple[str, socket.socket]] = {}

    def address(self, pod: str) -> str:
        """The pod's address; leased at the first call.

        Raises:
            ClientError: no loopback address has the agent's port free.
        """
        if pod not in self._leases:
            self._leases[pod] = self._lease()
        return self._leases[pod][0]

    def known(self, pod: str) -> str | None:
        """The pod's address if it has one already."""
        lease = self._leases.get(pod)
        return lease[0] if lease else None

    def release(self, pod: str) -> None:
        """Gives the pod's address back; nothing happens when it has none."""
        lease = self._leases.pop(pod, None)
        if lease:
            lease[1].close()

    def close(self) -> None:
        """Gives all addresses back."""
        for pod in list(self._leases):
            self.release(pod)

    def _lease(self) -> tuple[str, socket.socket]:
        for candidate in _candidates():
            holder = _hold(candidate, self.port)
            if holder is None:
                continue
            if _listenable(candidate, self.port):
                return candidate, holder
            holder.close()
        raise ClientError(
            f"no loopback address has TCP port {self.port} free: another program listens on it on all addresses; "
            f"find it with `ss -ltnp 'sport = :{self.port}'` and stop it"
        )


def _candidates() -> Iterator[str]:
    for third in range(16):
        for fourth in range(2, 255):
            yield f"127.0.{third}.{fourth}"


def _hold(address: str, port: int) -> socket.socket | None:
    holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        holder.bind((address, port))
    except OSError as error:
        holder.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise ClientError(
                f"this machine has no loopback address {address}; local mode needs Linux, or the address added by hand"
            ) from error
        return None
    return holder


def _listenable(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port() -> int:
    """A TCP port that nobody listens on at this moment, on any address."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
