"""Where the API server is and how to log in: a mounted service account, else a kubeconfig.

kopf's own log-in functions find the credentials; its watch streams and our client then each build their own
session from them. A service account's token is a file that the kubelet replaces: it is read again every
minute and after a 401, so that no request carries an expired one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import kopf

TOKEN_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
USER_AGENT = "deepseek-operator"


class LoginError(Exception):
    """No credentials were found, or they are of no use; the message says what to do."""


def find_credentials() -> kopf.ConnectionInfo:
    """The service account of this pod, else the current context of the kubeconfig.

    Raises:
        LoginError: there is neither, or the kubeconfig needs a log-in helper program.
    """
    settings = kopf.OperatorSettings()
    try:
        found = kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)
    except (kopf.LoginError, OSError, KeyError, ValueError) as error:
        raise LoginError(f"kubeconfig can't be used: {error}; check $KUBECONFIG") from error
    if found is None or not found.server:
        raise LoginError("no credentials: run in a pod with a service account, or set KUBECONFIG to a kubeconfig file")
    return found


class BearerToken:
    """The Authorization header, fresh."""

    def __init__(
        self,
        info: kopf.ConnectionInfo,
        path: Path = TOKEN_FILE,
        max_age_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._static = info.as_http_headers()
        self._path = path if path.exists() and info.token else None
        self._max_age_s = max_age_s
        self._clock = clock
        self._read_at = clock()

    def headers(self) -> dict[str, str]:
        """The header to send now; empty with client certificates."""
        if self._path is not None and self._clock() - self._read_at >= self._max_age_s:
            self.renew()
        return self._static

    def renew(self) -> None:
        """Reads the token file again; called when the server answered 401."""
        if self._path is not None:
            self._static = {"Authorization": f"Bearer {self._path.read_text(encoding='utf-8').strip()}"}
            self._read_at = self._clock()


def open_session(
    info: kopf.ConnectionInfo,
    token: BearerToken,
    *,
    connections: int = 0,
    timeout_s: float | None = None,
    middlewares: tuple[aiohttp.ClientMiddlewareType, ...] = (),
) -> aiohttp.ClientSession:
    """A session that trusts the cluster's CA and logs in with each request. The caller closes it.

    connections: most connections at once, 0 for no limit. timeout_s: None for none (watch streams).
    """

    async def log_in(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        request.headers.update(token.headers())
        return await handler(request)

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, ssl=info.as_ssl_context(), keepalive_timeout=60),
        headers={"User-Agent": USER_AGENT, "Accept": "application/json"},
        timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=10),
        middlewares=(log_in, *middlewares),
        proxy=info.proxy_url,
        trust_env=info.trust_env,
    )
