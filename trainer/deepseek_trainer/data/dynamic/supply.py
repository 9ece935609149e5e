"""This rank's rows: a thread leases shards and opens them while the present step computes.

It holds two shards, or rows for two steps where shards are smaller. What it holds counts as nothing until it is trained:
a process that is killed takes it along, and the next start gives the same leases out again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepseek_trainer.data.dynamic.leases import Lease
from deepseek_trainer.data.dynamic.runs import Run
from deepseek_trainer.data.dynamic.shards import Shard
from deepseek_trainer.errors import DataError

Lack = Literal["waiting", "ended"]
"""Why a lease of a stream has no shard: it hasn't arrived yet, or it never will."""

_AHEAD = 2
_POLL_S = 0.2
_CLOSING_S = 10.0


class Supply:
    """Shards in the order in which they were leased. All but the thread's own part is for one thread."""

    def __init__(
        self, take: Callable[[], Lease], open_: Callable[[Lease], Shard | Lack], *, empty_max: int | None = None
    ) -> None:
        """Leases nothing before the first rows are asked for.

        Args:
            take: the next lease.
            open_: its shard.
            empty_max: after so many shards in a row without anything to train the source has nothing at all.
        """
        self._take, self._open, self._empty_max = take, open_, empty_max
        self._change = threading.Condition()
        self._held: deque[Shard] = deque()
        self._at = 0
        self._available = self._wanted = 0
        self._lack: Lack | None = None
        self._error: BaseException | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
        self._thread.start()

    def await_rows(self, wanted: int, hold: int = 0) -> tuple[int, bool]:
        """How many rows are there: as many as are wanted, or fewer where a stream lacks them now; and if it has ended.

        Args:
            hold: more than this needn't be leased, if it is more than two steps' rows.

        Raises:
            Exception: whatever stopped the leasing, from here on each time.
        """
        with self._change:
            self._wanted = max(2 * wanted, hold)
            self._change.notify_all()
            self._change.wait_for(lambda: self._error or self._lack or self._available >= wanted)
            if self._error is not None:
                raise self._error
            return self._available, self._lack == "ended"

    def take(self, count: int) -> list[tuple[Shard, Run, NDArray[np.int64]]]:
        """The next rows, `count` of those that are there: of each shard which run of its lease, and which rows.

        A shard without a row to train comes along as a run of none; one that is behind the last row of a stream may be left.
        """
        taken = []
        with self._change:
            while self._held and (count or not self._held[0].rows.training):
                shard = self._held[0]
                rows = shard.rows.training
                first, stop = self._at, min(rows, self._at + count)
                taken.append((shard, Run(shard.lease.number, first, stop, stop == rows), shard.order[first:stop]))
                count -= stop - first
                self._at, self._available = stop, self._available - (stop - first)
                if stop == rows:
                    self._held.popleft()
                    self._at = self._held[0].lease.offset if self._held else 0
            self._change.notify_all()
        if count:
            raise RuntimeError(f"{count} rows more were asked for than there are")
        return taken

    def close(self) -> None:
        """Stops leasing and returns when the thread has ended."""
        self._closed.set()
        with self._change:
            self._change.notify_all()
        self._thread.join(_CLOSING_S)

    def _run(self) -> None:
        empty = 0
        try:
            while self._wait_for_room():
                shard = self._lease()
                if shard is None:
                    return
                empty = 0 if shard.rows.training else empty + 1
                if empty == self._empty_max:
                    raise DataError("there is no text in it; see that the files are the right ones and have text")
        except BaseException as error:  # the loop has to hear of it, whatever it is
            with self._change:
                self._error = error
                self._change.notify_all()

    def _wait_for_room(self) -> bool:
        """Returns when another shard is wanted; False: none is any more."""
        with self._change:
            self._change.wait_for(
                lambda: (
                    self._closed.is_set()
                    or (self._wanted and (len(self._held) < _AHEAD or self._available < self._wanted))
                )
            )
        return not self._closed.is_set()

    def _lease(self) -> Shard | None:
        lease = self._take()
        while isinstance(shard := self._open(lease), str):
            with self._change:
                self._lack = shard
                self._change.notify_all()
            if shard == "ended" or self._closed.wait(_POLL_S):
                return None
        with self._change:
            self._lack = None
            if not self._held:
                self._at = lease.offset
            self._held.append(shard)
            self._available += shard.rows.training - lease.offset
            self._change.notify_all()
        return shard
