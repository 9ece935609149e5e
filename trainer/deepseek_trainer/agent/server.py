"""The agent's HTTP server: GET /healthz, /readyz, /progress, /metrics."""

from __future__ import annotations

import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from socketserver import TCPServer
from urllib.parse import parse_qsl

from deepseek_trainer.agent.log import EventLog
from deepseek_trainer.agent.metrics import exposition
from deepseek_trainer.agent.status import Status
from deepseek_trainer.contract import PROGRESS_MAX_BYTES, Progress, Report

WAIT_MAX_S = 30
_TEXT = "text/plain; version=0.0.4; charset=utf-8"


class AgentServer(ThreadingHTTPServer):
    """Serves one agent's status, each request in a thread of its own."""

    daemon_threads = True
    request_queue_size = 32

    def __init__(self, address: str | None, port: int, status: Status) -> None:
        """Binds to the pod's address, or to all when there is none.

        Raises:
            OSError: the address or the port can't be had.
        """
        self.address_family = AF_INET6 if address and ":" in address else AF_INET
        super().__init__((address or "", port), _Handler)
        self.status = status
        self.metrics = exposition(status.progress, status.pulses)

    def server_bind(self) -> None:
        """As a plain TCP server: the HTTP server's own version waits for a reverse look-up of the address."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone, as an impatient probe does, is no event; anything else is one line."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            EventLog(self.status.context).warning("request failed", client=client_address, reason=repr(error))

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, name="http", daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: AgentServer
    timeout = 10
    """Seconds that a client may take to send its request."""
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/healthz":
            self._tell(self.server.status.is_healthy(), "the supervision loop does not turn")
        elif path == "/readyz":
            self._tell(self.server.status.is_ready(), "torch is being imported")
        elif path == "/progress":
            self._wait(dict(parse_qsl(query)))
            self._answer(HTTPStatus.OK, "application/json", body(self.server.status.progress()))
        elif path == "/metrics":
            self._answer(HTTPStatus.OK, _TEXT, self.server.metrics())
        else:
            self._answer(HTTPStatus.NOT_FOUND, _TEXT, b"try /healthz, /readyz, /progress or /metrics\n")

    def _wait(self, wanted: dict[str, str]) -> None:
        """The answer may be put off until there is news; a wish that can't be read is none."""
        wait, seen = wanted.get("wait", ""), wanted.get("seen", "")
        if wait.isdecimal() and seen.isdecimal():
            self.server.status.await_news(int(seen), min(int(wait), WAIT_MAX_S))

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not events: a probe each second would bury the rest."""

    def _tell(self, is_so: bool, otherwise: str) -> None:
        if is_so:
            self._answer(HTTPStatus.OK, _TEXT, b"ok\n")
        else:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, f"{otherwise}\n".encode())

    def _answer(self, code: HTTPStatus, content_type: str, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def body(progress: Progress) -> bytes:
    """The progress as JSON within PROGRESS_MAX_BYTES; what a report blew up by its texts is left out."""
    content = progress.model_dump_json(by_alias=True, exclude_none=True).encode()
    if len(content) <= PROGRESS_MAX_BYTES:
        return content
    own = {name: getattr(progress, name) for name in Progress.model_fields if name not in Report.model_fields}
    slim = Progress.model_validate(own | {"phase": progress.phase, "step": progress.step, "loss": progress.loss})
    return slim.model_dump_json(by_alias=True, exclude_none=True).encode()
