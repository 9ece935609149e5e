"""Waiting for a condition with a deadline, so that no test sleeps blindly and a failure shows the last state."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(
    probe: Callable[[], T],
    *,
    deadline_s: float,
    interval_s: float = 0.1,
    describe: Callable[[], object] | None = None,
    what: str = "condition",
) -> T:
    """Calls probe until it answers something true, and returns that.

    Raises:
        AssertionError: it did not within deadline_s; the message has the last answer, the last exception
            and, if given, what describe() says about the world.
    """
    end = time.monotonic() + deadline_s
    answer: object = None
    while True:
        try:
            answer = value = probe()
            if value:
                return value
        except Exception as error:  # the world may not be there yet; shown when time is up
            answer = error
        if time.monotonic() >= end:
            break
        time.sleep(interval_s)
    state = f"\n{describe()}" if describe else ""
    raise AssertionError(f"{what}: not within {deadline_s:g} s; last answer: {answer!r}{state}")


def now() -> float:
    """Unix seconds, as processes and pods on this machine have them."""
    return time.time()
