"""Evidence of a training process' failure: its exit status and the line that says why, 1 KB at most."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from json import JSONDecodeError

from deepseek_trainer.contract import Failure

MESSAGE_MAX_BYTES = 1024
LAST_LINES = 5


def failure(rank: int, exit_code: int, error_text: str, stderr_tail: Sequence[str]) -> Failure:
    """The failure of one process.

    Args:
        exit_code: as the operating system gives it; negative for a signal.
        error_text: JSON that torch's `@record` wrote, or "".
        stderr_tail: the last lines of its stderr.
    """
    message = _recorded(error_text) or _traceback(stderr_tail) or "\n".join(_last_lines(stderr_tail))
    if exit_code < 0:
        return Failure(rank=rank, signal=_signal_name(-exit_code), message=shorten(message, MESSAGE_MAX_BYTES))
    return Failure(rank=rank, exit_code=exit_code, message=shorten(message, MESSAGE_MAX_BYTES))


def shorten(text: str, max_bytes: int) -> str:
    """The end of the text that fits; cut between characters."""
    encoded = text.encode(errors="replace")
    return encoded[-max_bytes:].decode(errors="ignore") if len(encoded) > max_bytes else encoded.decode()


def _recorded(error_text: str) -> str:
    """The message in an error file of `@record`: untrusted, any shape is possible."""
    try:
        content = json.loads(error_text) if error_text else {}
    except JSONDecodeError:
        return ""
    message = content.get("message") if isinstance(content, dict) else None
    if isinstance(message, dict):
        message = message.get("message")
    return message if isinstance(message, str) else ""


def _traceback(lines: Sequence[str]) -> str:
    """What follows the last traceback's frames: the exception's own line or lines."""
    starts = [index for index, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    if not starts:
        return ""
    rest = lines[starts[-1] + 1 :]
    said = next((index for index, line in enumerate(rest) if line and not line.startswith((" ", "\t"))), None)
    return "" if said is None else rest[said]


def _last_lines(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if line.strip()][-LAST_LINES:]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
