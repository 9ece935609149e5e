"""The agent's log: one line of key=value pairs an event, on stderr, always with job, pod, generation and round."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping

LOGGER = "deepseek_trainer.agent"


class EventLog:
    """Logs events with fields; `context` gives the fields that every line has."""

    def __init__(self, context: Callable[[], Mapping[str, object]] = dict) -> None:
        self._logger = logging.getLogger(LOGGER)
        self._context = context

    def info(self, event: str, **fields: object) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._log(logging.ERROR, event, fields)

    def _log(self, level: int, event: str, fields: Mapping[str, object]) -> None:
        pairs = {"event": event, **fields, **self._context()}
        self._logger.log(level, "%s", " ".join(f"{name}={_quoted(value)}" for name, value in pairs.items()))


def configure() -> None:
    """Sends the agent's events to stderr, and nothing else of this process below an error."""
    formatter = logging.Formatter("time=%(asctime)s.%(msecs)03dZ level=%(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logger = logging.getLogger(LOGGER)
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # torch's own agent narrates each signal that it sends; the agent's events say the same in its own terms.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)


def _quoted(value: object) -> str:
    """The value as one word, or as a JSON string when it has blanks, quotes or line breaks."""
    text = str(value)
    plain = text and all(c.isprintable() and c not in ' "=' for c in text)
    return text if plain else json.dumps(text, ensure_ascii=False)
