"""What the API server can answer instead of yes, as types, so that callers never look at status codes."""

from __future__ import annotations

import json


class ApiError(Exception):
    """A request was refused. The text names the request and the server's own message."""

    def __init__(self, status: int, reason: str, message: str, request: str) -> None:
        super().__init__(f"{request}: {message or reason or status}")
        self.status = status
        self.reason = reason
        self.message = message
        self.request = request


class NotFound(ApiError):
    """404: the object does not exist."""


class NotServed(ApiError):
    """404 on create: the API server doesn't know the kind."""


class AlreadyExists(ApiError):
    """409 on create: an object of that name exists."""


class Conflict(ApiError):
    """409 on change: the object is no longer the one (UID) or the version that was read."""


class Forbidden(ApiError):
    """403: RBAC, a quota or an admission policy says no."""


class NamespaceTerminating(Forbidden):
    """403 on create: the namespace is being deleted, and with it all that is asked for."""


class Invalid(ApiError):
    """400, 413 or 422: the object itself is refused; the same request can never succeed."""


class Unauthorized(ApiError):
    """401: the credentials are not valid (any more)."""


class Unavailable(ApiError):
    """429, 5xx, a timeout or a broken connection, also after all retries."""


TERMINATING = "NamespaceTerminating"
"""The API server's cause for refusing new objects in a namespace that is being deleted."""
_BY_STATUS: dict[int, type[ApiError]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    410: NotFound,
    413: Invalid,
    422: Invalid,
    429: Unavailable,
}


def from_answer(status: int, body: bytes, request: str) -> ApiError:
    """The error of an answer with a status of 400 or more; body may be a Kubernetes Status object or anything."""
    try:
        answer = json.loads(body)
        reason, message = str(answer.get("reason", "")), str(answer.get("message", ""))
        causes = {str(cause.get("reason")) for cause in (answer.get("details") or {}).get("causes") or ()}
    except (ValueError, AttributeError, TypeError):
        reason, message, causes = "", body[:300].decode("utf-8", "replace"), set()
    kind = _BY_STATUS.get(status, Unavailable if status >= 500 else ApiError)
    if status == 409:
        kind = AlreadyExists if reason == "AlreadyExists" else Conflict
    if kind is Forbidden and TERMINATING in causes:
        kind = NamespaceTerminating
    return kind(status, reason, message, request)
