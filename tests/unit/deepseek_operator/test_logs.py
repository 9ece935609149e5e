"""One event, one line of JSON; what is about to be tried again is no error."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from deepseek_operator.logs import configure_logging


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("info", stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)


@pytest.mark.parametrize(
    ("name", "message", "level"),
    [
        ("kopf._cogs.clients.watching", "Request attempt #1/9 failed; will retry: GET /x -> 429", "warning"),
        ("kopf._cogs.clients.watching", "Request attempt #9/9 failed; escalating: GET /x -> 429", "error"),
        ("deepseek_operator", "Request attempt #1/9 failed; will retry: GET /x -> 429", "error"),
    ],
)
def test_a_request_that_is_sent_again_is_a_warning(log: io.StringIO, name: str, message: str, level: str) -> None:
    logging.getLogger(name).error(message)
    (line,) = [json.loads(text) for text in log.getvalue().splitlines()]
    assert (line["event"], line["level"], line["logger"]) == (message, level, name)
