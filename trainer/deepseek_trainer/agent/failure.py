"""Evidence of a training process' failure: its exit status and the lines that say why, 1 KB at most.

The operator tells causes apart by these words, so what names one (the exception's type, an error of CUDA or NCCL,
out of memory) must survive, and C++ stack frames, which come by the page, must not crowd it out.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Sequence
from json import JSONDecodeError

from deepseek_trainer.contract import Failure

MESSAGE_MAX_BYTES = 1024
LAST_LINES = 5
TRACEBACK = "Traceback (most recent call last)"
_RANK = re.compile(r"^\[rank\d+\]: ?")
"""torch puts this before each line of a traceback once there is a process group."""
_FRAME = re.compile(r"^\s*(frame #\d+: |Exception raised from \S+ at )")
_CAUSE = re.compile(
    r"out ?of ?memory|watchdog caught|last error|what\(\):|\bxid\b|uncorrectable|"
    r"(cuda|cublas|cudnn|nccl|gloo).*(error|fail|timed? ?out|abort|terminat|illegal)",
    re.IGNORECASE,
)
_GAP = " … "


def failure(rank: int, exit_code: int, error_text: str, stderr_tail: Sequence[str]) -> Failure:
    """The failure of one process.

    Args:
        exit_code: as the operating system gives it; negative for a signal.
        error_text: JSON that torch's `@record` wrote, or "".
        stderr_tail: the last lines of its stderr.
    """
    lines = [plain(line) for line in stderr_tail if not is_frame(line)]
    message = _recorded(error_text) or _traceback(lines) or "\n".join(_last_lines(lines))
    if exit_code < 0:
        return Failure(rank=rank, signal=_signal_name(-exit_code), message=shorten(message, MESSAGE_MAX_BYTES))
    return Failure(rank=rank, exit_code=exit_code, message=shorten(message, MESSAGE_MAX_BYTES))


def plain(line: str) -> str:
    """A line of a process' output as the process itself meant it, without torch's rank in front."""
    return _RANK.sub("", line, count=1)


def is_frame(line: str) -> bool:
    """Whether the line is part of a C++ stack trace."""
    return _FRAME.match(plain(line)) is not None


def shorten(text: str, max_bytes: int) -> str:
    """The beginning and, twice as long, the end of the text, so that it fits; cut between characters."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= max_bytes:
        return encoded.decode()
    room = max_bytes - len(_GAP.encode())
    if room <= 0:
        return ""
    head, tail = encoded[: room // 3], encoded[room // 3 - room :]
    return head.decode(errors="ignore") + _GAP + tail.decode(errors="ignore")


def _recorded(error_text: str) -> str:
    """The message in an error file of `@record`: untrusted, any shape is possible."""
    try:
        content = json.loads(error_text) if error_text else {}
    except JSONDecodeError:
        return ""
    message = content.get("message") if isinstance(content, dict) else None
    if isinstance(message, dict):
        message = message.get("message")
    if not isinstance(message, str):
        return ""
    return "\n".join(line for line in message.splitlines() if line.strip() and not is_frame(line))


def _traceback(lines: Sequence[str]) -> str:
    """What follows the last traceback's frames: the exception's own line, and of the next ones those that name a cause."""
    starts = [index for index, line in enumerate(lines) if line.startswith(TRACEBACK)]
    if not starts:
        return ""
    rest = lines[starts[-1] + 1 :]
    said = next((index for index, line in enumerate(rest) if line and not line.startswith((" ", "\t"))), None)
    if said is None:
        return ""
    return "\n".join([rest[said], *(line for line in rest[said + 1 :] if _CAUSE.search(line))])


def _last_lines(lines: Sequence[str]) -> list[str]:
    """The last lines, after those further up that name a cause."""
    spoken = [line for line in lines if line.strip()]
    last = spoken[-LAST_LINES:]
    causes = [line for line in spoken[:-LAST_LINES] if _CAUSE.search(line)][-LAST_LINES:]
    return [*causes, *last]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
