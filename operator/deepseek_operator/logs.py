"""Structured logs: one event, one line of JSON, on standard output; kopf's and aiohttp's own lines alike."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

import structlog

_TRACEBACK = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=20)
"""Where an exception came from, and no local variables: they may hold credentials."""


def configure_logging(level: str, stream: TextIO = sys.stdout) -> None:
    """Sends everything that is logged in this process to the stream, as JSON. Called once, by main()."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.ExceptionRenderer(_TRACEBACK),
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # kopf logs a line for each watch event at info and debug; its warnings and errors are what matters here.
    logging.getLogger("kopf").setLevel(max(logging.WARNING, root.level))
    handler.addFilter(_calm)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _calm(record: logging.LogRecord) -> bool:
    """A request that kopf is about to send again is no error: a busy or starting API server asks for just that."""
    if record.levelno == logging.ERROR and record.name.startswith("kopf.") and "; will retry: " in str(record.msg):
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose keyword arguments become fields of the line."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
