"""The one exception of this package, and how a command line shows it: a sentence, never a traceback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence


class NativeError(Exception):
    """Names the object, says what is wrong and what to do about it."""


class Unavailable(NativeError):
    """This machine lacks something that only its owner can add (Go, root): tests are skipped with the message."""


def main_of(body: Callable[[Sequence[str]], None]) -> None:
    """Runs a command line's body; an error or an interrupt becomes one line on stderr and exit status 1 or 130."""
    try:
        body(sys.argv[1:])
    except (NativeError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def run(argv: Sequence[str], *, stdin: bytes | None = None, timeout_s: float = 600.0, what: str = "") -> str:
    """Runs a command to its end and returns its stdout.

    Raises:
        NativeError: it is not installed, failed or took too long; the message carries the end of its output.
    """
    name = what or " ".join(argv[:3])
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, timeout=timeout_s, check=False)
    except FileNotFoundError as error:
        raise NativeError(f"{name}: {argv[0]} is not installed; install it and run this again") from error
    except subprocess.TimeoutExpired as error:
        raise NativeError(f"{name}: no end after {timeout_s:.0f} s; look at what it waits for") from error
    if done.returncode != 0:
        tail = (done.stderr or done.stdout).decode(errors="replace").strip()[-2000:]
        raise NativeError(f"{name}: exit status {done.returncode}: {tail}")
    return done.stdout.decode(errors="replace")
