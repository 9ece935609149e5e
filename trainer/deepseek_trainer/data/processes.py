"""Parts made by all processors of this container: by threads where there is little to do, else by processes.

Each process is a fresh interpreter: a fork of one that has run torch or the tokenizers' threads may hang. None of
them outlives the one that started it, however that ends.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path

from deepseek_trainer.data.parts import Part
from deepseek_trainer.errors import UnavailableError

log = logging.getLogger(__name__)

Executor = Callable[[Callable[[Part], None], Sequence[Part]], None]
"""Has a function called with each part, at least once, in any order, anywhere; returns when all are done."""

_SAY_EVERY_S = 10.0
_ALONE_BYTES = 2**26
"""The tokenizers' own threads are faster up to here: processes start an interpreter and load the vocabulary each. What threads
can't share (reading records, collecting the ids) is about a twentieth of the work, and counts with more data."""


def run(work: Callable[[Part], None], parts: Sequence[Part], processes: int | None = None) -> None:
    """Has each part worked on here.

    Args:
        processes: None: as many as there are processors, where that is worth it.

    Raises:
        UnavailableError: a process was killed.
        Exception: what the work raised first.
    """
    bytes_ = sum(part.piece.bytes for part in parts)
    count = min(processes or (processors() if bytes_ > _ALONE_BYTES else 1), len(parts))
    if count <= 1:  # the tokenizers' own threads do it
        for part in parts:
            work(part)
        return
    pool = _pool(count, {"TOKENIZERS_PARALLELISM": "false"})  # all processors are busy
    try:
        said_at = time.monotonic()
        for done, future in enumerate(as_completed([pool.submit(work, part) for part in parts]), start=1):
            future.result()
            if time.monotonic() - said_at > _SAY_EVERY_S:
                said_at = time.monotonic()
                log.info("preparing parts=%d of=%d processes=%d", done, len(parts), count)
    except BrokenProcessPool as error:
        raise _killed() from error
    finally:
        pool.shutdown(cancel_futures=True)


def run_apart(work: Callable[..., None], *arguments: object, environ: Mapping[str, str]) -> None:
    """Calls work in a fresh process, which has these variables before it imports anything of its own.

    Raises:
        UnavailableError: the process was killed.
        Exception: what the work raised.
    """
    pool = _pool(1, environ)
    try:
        pool.submit(work, *arguments).result()
    except BrokenProcessPool as error:
        raise _killed() from error
    finally:
        pool.shutdown(cancel_futures=True)


def processors(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Processors that this container may use: its affinity, and its quota where it has one."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        return max(1, min(allowed, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or no quota in it
        return allowed


def _pool(count: int, environ: Mapping[str, str]) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, context, initializer=_begin, initargs=(dict(environ),))


def _killed() -> UnavailableError:
    return UnavailableError(
        "a process that prepared data was killed, perhaps because memory was full; give the workers more memory, or fewer "
        "processors"
    )


def _begin(environ: Mapping[str, str]) -> None:
    """In each process: its environment; and an end when the parent has ended."""
    os.environ.update(environ)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
