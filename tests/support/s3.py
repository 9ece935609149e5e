"""A real S3 server on loopback (moto's), in this process, whose requests a test sees before they are served.

Its state is that of the process. A bucket `runs` is there from the beginning.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "runs"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
ALONE = {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}
"""Nothing of this machine's own is looked at."""
REFUSED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
FAILED = b"<Error><Code>InternalError</Code><Message>We encountered an internal error</Message></Error>"

Hook = Callable[[str, str], str | None]
"""Is told method and path of a request. It is served (None), refused, or, with `lost`, served and answered with an error."""


class Server:
    """The server, until it is closed."""

    def __init__(self) -> None:
        from moto.server import create_backend_app

        self.hook: Hook = lambda method, path: None
        self.unconditional = False
        """Whether it takes no notice of If-None-Match, as some stores do."""
        self._app: Any = create_backend_app("s3")
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=_Quiet)
        self.endpoint = f"http://127.0.0.1:{self._server.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        what = self.hook(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        if self.unconditional:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if what == "refused":
            return _error(start_response, "403 Forbidden", REFUSED)
        answer: Iterable[bytes] = self._app(environ, start_response if what is None else _unheard)
        return answer if what is None else _error(start_response, "500 Internal Server Error", FAILED)


def _unheard(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
    return lambda content: None


def _error(start_response: Any, status: str, content: bytes) -> list[bytes]:
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(content)))])
    return [content]


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:
        """Nothing: a test's output is its own."""
