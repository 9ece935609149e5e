"""Reads what an agent says on its loopback address: size-capped, with a deadline, never through a proxy."""

from __future__ import annotations

import http.client

from deepseek_operator.api.names import AGENT_PORT, PROGRESS_MAX_BYTES

TIMEOUT_S = 1.0
"""The live display waits for it: short, and a missed report is only a delay."""


def get(ip: str, path: str, timeout_s: float = TIMEOUT_S) -> bytes | None:
    """The body of a 200 answer, at most PROGRESS_MAX_BYTES long; None for every other outcome."""
    connection = http.client.HTTPConnection(ip, AGENT_PORT, timeout=timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(PROGRESS_MAX_BYTES + 1)
        return body if response.status == http.HTTPStatus.OK and len(body) <= PROGRESS_MAX_BYTES else None
    except (OSError, http.client.HTTPException):
        return None  # not up yet, or on its way out: as a kubelet's probe, the answer is no
    finally:
        connection.close()
