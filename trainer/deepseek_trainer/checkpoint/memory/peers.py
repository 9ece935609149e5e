"""Files in a node's memory for the other nodes of the job, over HTTP: GET /<sha256>, with a range.

Rule: weights are for the ranks of this start alone. Each of them has the token that rank 0 made up for it, which is told
over the job's own collectives; without it nothing is answered. A name is 64 hexadecimal digits, and nothing else.
Every wait ends: a peer that is silent for `TIMEOUT_S` has nothing.
"""

from __future__ import annotations

import hmac
import re
import threading
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from socketserver import TCPServer

from deepseek_trainer.checkpoint.memory.shelf import NAME, Shelf

TIMEOUT_S = 10.0
"""Of a connection, and of each wait on it."""
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})")


class PeerError(Exception):
    """A peer can't be reached, or doesn't have what was asked for."""


class Server(ThreadingHTTPServer):
    """Serves a shelf, at a port that the kernel chooses. It answers nobody before it has a token."""

    daemon_threads = True
    request_queue_size = 32

    def __init__(self, address: str, shelf: Shelf) -> None:
        """Raises:
        OSError: the address can't be had.
        """
        self.address_family = AF_INET6 if ":" in address else AF_INET
        super().__init__((address, 0), _Handler)
        self.shelf, self.token = shelf, ""
        threading.Thread(target=self.serve_forever, name="memory", daemon=True).start()

    def server_bind(self) -> None:
        """As a plain TCP server: the HTTP server's own version waits for a reverse look-up of the address."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away asks again, or reads the volume, and says so itself."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = TIMEOUT_S
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        told = self.headers.get("Authorization", "").encode()
        if not (self.server.token and hmac.compare_digest(told, f"Bearer {self.server.token}".encode())):
            self._refuse(HTTPStatus.FORBIDDEN)
            return
        name = self.path.removeprefix("/")
        if not NAME.fullmatch(name):
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        try:
            with self.server.shelf.path(name).open("rb") as file:
                size = file.seek(0, 2)
                begin, end = _range(self.headers.get("Range", ""), size)
                self.send_response(HTTPStatus.PARTIAL_CONTENT)
                self.send_header("Content-Length", str(end - begin))
                self.end_headers()
                if end > begin:
                    self.connection.sendfile(file, begin, end - begin)
        except FileNotFoundError:
            self._refuse(HTTPStatus.NOT_FOUND)

    def _refuse(self, code: HTTPStatus) -> None:
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not events."""


class Peer:
    """Another node's server; for one thread at a time."""

    def __init__(self, address: str, port: int, token: str) -> None:
        self._connection = HTTPConnection(address, port, timeout=TIMEOUT_S)
        self._token = token

    def read(self, sha256: str, offset: int, length: int) -> bytes:
        """So many bytes of a file, from there.

        Raises:
            PeerError: it doesn't have them, or can't be reached.
        """
        if not length:
            return b""
        try:
            status, content = self._ask(sha256, offset, length)
        except TimeoutError as error:
            self.close()
            raise PeerError(f"{self._connection.host} is silent") from error
        except (OSError, HTTPException):
            self.close()  # it has closed a connection that was idle, or it is gone
            try:
                status, content = self._ask(sha256, offset, length)
            except (OSError, HTTPException) as error:
                self.close()
                raise PeerError(f"{self._connection.host} can't be reached: {error or type(error).__name__}") from error
        if status != HTTPStatus.PARTIAL_CONTENT or len(content) != length:
            raise PeerError(f"{self._connection.host} answers {status} with {len(content)} of {length} bytes")
        return content

    def _ask(self, sha256: str, offset: int, length: int) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {self._token}", "Range": f"bytes={offset}-{offset + length - 1}"}
        self._connection.request("GET", f"/{sha256}", headers=headers)
        with self._connection.getresponse() as answer:
            return answer.status, answer.read()

    def close(self) -> None:
        self._connection.close()


def _range(wanted: str, size: int) -> tuple[int, int]:
    """From where to where, of a file of that size; all of it where nothing else is said."""
    match = _RANGE.fullmatch(wanted)
    if match is None:
        return 0, size
    begin, last = int(match.group(1)), int(match.group(2))
    return min(begin, size), max(min(begin, size), min(last + 1, size))
