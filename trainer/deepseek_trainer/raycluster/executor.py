"""Parts of a preparation made by the job's Ray nodes, as far as Ray gets with it.

Nothing depends on it: a part's file appears whole or not at all and is the same whoever made it, so what Ray has not
made is made by the trainer itself. Whatever becomes of Ray (it can't be reached, dies, hangs, has another version,
does not see the data cache) costs one line in the log and a time that is bounded here.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import queue
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from deepseek_trainer.errors import UnavailableError
from deepseek_trainer.logs import fields
from deepseek_trainer.raycluster import command, preparing, session

log = logging.getLogger(__name__)


class InFolder(Protocol):
    """A piece of work that writes to a folder which all share."""

    @property
    def folder(self) -> str: ...


P = TypeVar("P", bound=InFolder)

HEAD_S = 45.0
"""For the head to answer, which is begun when the workers are."""
START_S = 90.0
"""For the driver to import Ray, to connect and to see the cluster's nodes."""
PART_S = 300.0
"""Without any part done for so long, Ray hangs."""
_ASK_S = 0.5


def of(environ: Mapping[str, str]) -> RayExecutor | None:
    """What makes parts on the job's Ray cluster; None where the job has none."""
    return RayExecutor(environ) if session.head_address(environ) else None


class RayExecutor:
    """Makes parts on the job's Ray cluster; leaves undone what it can't have done there."""

    def __init__(
        self, environ: Mapping[str, str], *, head_s: float = HEAD_S, start_s: float = START_S, part_s: float = PART_S
    ) -> None:
        self._environ = environ
        self._head_s, self._start_s, self._part_s = head_s, start_s, part_s

    def __call__(self, work: Callable[[P], None], parts: Sequence[P]) -> None:
        if len(parts) < 2:  # done here before a task could be sent
            return
        made, nodes, problem = 0, set[str](), ""
        try:
            session.await_head(self._environ, self._head_s)
            for said in self._drive(work, parts):
                if said["failed"]:
                    problem = problem or str(said["failed"])
                else:
                    made += 1
                    nodes.add(said["node"])
        except (UnavailableError, OSError) as error:
            problem = str(error)
        if problem:
            log.warning("ray left %d of %d parts to this process: %s", len(parts) - made, len(parts), problem)
        else:
            log.info("prepared with ray %s", fields(parts=made, nodes=len(nodes)))

    def _drive(self, work: Callable[[P], None], parts: Sequence[P]) -> Iterator[dict[str, Any]]:
        """What the driver says of each part.

        Raises:
            UnavailableError: it has said nothing for too long, or it failed.
        """
        seen = Path(parts[0].folder) / f".ray-{secrets.token_hex(8)}"
        seen.touch()
        driver = subprocess.Popen(
            [sys.executable, "-m", preparing.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Where Ray is lost it prints pages of its own stacks; what there is to know is one line, said below.
            stderr=None if log.isEnabledFor(logging.DEBUG) else subprocess.DEVNULL,
            env=command.environment({**os.environ, **self._environ}),
        )
        assert driver.stdin is not None and driver.stdout is not None  # noqa: S101, PT018  they are pipes
        try:
            driver.stdin.write(pickle.dumps(preparing.Order(work, parts, str(seen))))
            driver.stdin.flush()
            lines = _lines(driver.stdout)
            self._next(lines, driver, self._start_s, "Ray's nodes")
            for _ in parts:
                yield self._next(lines, driver, self._part_s, "a part")
        finally:
            driver.kill()
            driver.wait()
            with contextlib.suppress(OSError):  # what is unsaid has nobody to hear it
                driver.stdin.close()
            driver.stdout.close()
            seen.unlink(missing_ok=True)

    def _next(
        self, lines: queue.Queue[bytes | None], driver: subprocess.Popen[bytes], seconds: float, what: str
    ) -> dict[str, Any]:
        line = self._line(lines, seconds, what)
        if line is None:
            raise UnavailableError(f"its driver ended with status {driver.wait()}")
        said: dict[str, Any] = json.loads(line)
        if "problem" in said:
            raise UnavailableError(said["problem"])
        return said

    def _line(self, lines: queue.Queue[bytes | None], seconds: float, what: str) -> bytes | None:
        """The next line. A driver whose head was lost is not waited for: it would ask the new one without a pause."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                return lines.get(timeout=min(left, _ASK_S))
            head = session.head_address(self._environ)
            if head is not None and session.is_lost(*head):
                raise UnavailableError(f"the head {head[0]} was lost")
        raise UnavailableError(f"waited {seconds:g} s for {what}")


def _lines(pipe: IO[bytes]) -> queue.Queue[bytes | None]:
    """The lines of a pipe as they come, and None at its end."""
    lines: queue.Queue[bytes | None] = queue.Queue()

    def read() -> None:
        for line in pipe:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines
