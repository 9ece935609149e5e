"""What has arrived of a stream, told by rank 0 to all through the store that the ranks met in.

One process lists the folder, so there is one order, whatever each node would see of the volume at that moment. A rank asks
only when it has a lease whose shard it doesn't know. Keys carry the name of the start, as those of leases do.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch.distributed import Store  # type: ignore[attr-defined]  # exported by a star

from deepseek_trainer.data.dynamic.leases import Lease
from deepseek_trainer.data.dynamic.ledger import LeaseLedger
from deepseek_trainer.data.dynamic.stream import Arrived, Journal
from deepseek_trainer.data.dynamic.supply import Lack
from deepseek_trainer.data.parts import Part
from deepseek_trainer.data.sources import Piece
from deepseek_trainer.errors import DataError, TrainerError, UnavailableError

_LOOK_EVERY_S = 0.5
_SHARDS_AHEAD = 1024
"""So many are told beyond those that are leased: a folder with millions needn't be in the store."""
_CLOSING_S = 10.0
_SEEN_S = 60.0


def part_number(piece: Piece, state: tuple[int, ...]) -> int:
    """Names the file of a shard: another one where the source's file is another, though it has the same name."""
    said = json.dumps([piece.name, state, piece.start, piece.end]).encode()
    return int.from_bytes(hashlib.sha256(said).digest()[:7], "big")


class Announcer:
    """Rank 0's part: looks at the folder, in a thread, and says what is new, or what is wrong with it."""

    def __init__(self, journal: Journal, store: Store, start: str, leased: Callable[[], Lease]) -> None:
        """Looks for the first time.

        Args:
            leased: what would be given out now.

        Raises:
            DataError, UnavailableError: as `Journal.look`.
        """
        self._journal, self._store, self._key, self._leased = journal, store, f"data/{start}", leased
        self._lock = threading.Lock()
        self._waiting: deque[Arrived] = deque(journal.look())
        self._files = self._told = 0
        self._closed = threading.Event()
        self._tell()
        self._thread = threading.Thread(target=self._run, name="arrivals", daemon=True)
        self._thread.start()

    def evaluated(self) -> Iterator[tuple[Piece, tuple[int, ...]]]:
        """See `Journal`."""
        with self._lock:
            files = self._journal.files()
        for file in files:
            for piece in self._journal.cut(file):
                yield piece, file.state

    def watermark(self, low: int, top: int) -> dict[str, Any]:
        """See `Journal`. What was begun is proven to be as it was."""
        with self._lock:
            self._waiting += self._journal.look()
            return self._journal.watermark(low, top)

    def close(self) -> None:
        self._closed.set()
        self._thread.join(_CLOSING_S)

    def _run(self) -> None:
        try:
            while not self._closed.wait(_LOOK_EVERY_S):
                with self._lock:
                    self._waiting += self._journal.look()
                self._tell()
        except TrainerError as error:
            self._say(failed=[type(error).__name__, str(error)])
        except Exception as error:
            self._say(failed=[UnavailableError.__name__, f"{type(error).__name__}: {error}"])

    def _tell(self) -> None:
        with self._lock:
            while self._waiting and self._told < self._leased().number + _SHARDS_AHEAD:
                arrived = self._waiting.popleft()
                state = list(arrived.file.state)
                said = {"first": arrived.first, "state": state, "pieces": [asdict(piece) for piece in arrived.pieces]}
                self._store.set(f"{self._key}/file/{self._files}", json.dumps(said))
                self._files, self._told = self._files + 1, arrived.after
            ended = self._journal.ended and not self._waiting
        self._say(ended=ended)

    def _say(self, *, ended: bool = False, failed: list[str] | None = None) -> None:
        self._store.set(f"{self._key}/files", json.dumps({"count": self._files, "ended": ended, "failed": failed}))


class Stream:
    """What lease n is, on any rank."""

    count: int | None = None

    def __init__(
        self,
        store: Store,
        start: str,
        *,
        make_part: Callable[[Piece, tuple[int, ...]], Part],
        announcer: Announcer | None,
        clears: bool,
    ) -> None:
        """Args:
        make_part: of a piece of a file in some state.
        announcer: on rank 0.
        clears: whether this rank removes what was tokenised and is done.
        """
        self._store, self._key, self._make_part = store, f"data/{start}", make_part
        self._announcer, self._clears = announcer, clears
        self._files = 0
        self._known: dict[int, Part] = {}
        self._lock = threading.Lock()

    def part(self, lease: int) -> Part | Lack:
        """The shard of a lease.

        Raises:
            DataError, UnavailableError: what rank 0 has met.
        """
        with self._lock:
            if lease not in self._known:
                lack = self._hear()
                if lease not in self._known:
                    return lack
            part = self._known[lease]
        self._require_seen(part)
        return part

    def _require_seen(self, part: Part) -> None:
        """Returns when this node sees a file that rank 0 has seen: a network volume may show it later.

        Raises:
            UnavailableError: it doesn't.
        """
        end = time.monotonic() + _SEEN_S
        while not Path(part.piece.path).exists():
            if time.monotonic() > end:
                raise UnavailableError(
                    f"{part.piece.path}: rank 0 has seen it {_SEEN_S:g} s ago, and it isn't here; is data.path on a volume that all "
                    "workers share?"
                )
            time.sleep(_LOOK_EVERY_S)

    def evaluated(self) -> Iterator[Part]:
        """The shards that have arrived, from the first one; on rank 0."""
        assert self._announcer is not None  # noqa: S101  only rank 0 is asked
        for piece, state in self._announcer.evaluated():
            yield self._make_part(piece, state)

    def files(self, ledger: LeaseLedger) -> dict[str, Any]:
        """What a ledger remembers of the files; on rank 0. See `Journal.watermark`."""
        assert self._announcer is not None  # noqa: S101  only rank 0 is asked
        return self._announcer.watermark(ledger.low, ledger.top)

    def forget(self, low: int) -> None:
        """Leases below are done, and committed: nobody needs their shards again."""
        with self._lock:
            for part in [self._known.pop(lease) for lease in sorted(self._known) if lease < low]:
                if self._clears:
                    part.path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._announcer is not None:
            self._announcer.close()

    def _hear(self) -> Lack:
        """Learns what rank 0 has told; what it means for a lease that is still unknown."""
        said = json.loads(self._store.get(f"{self._key}/files"))
        if said["failed"] is not None:
            kind, message = said["failed"]
            raise DataError(message) if kind == DataError.__name__ else UnavailableError(message)
        while self._files < said["count"]:
            arrived = json.loads(self._store.get(f"{self._key}/file/{self._files}"))
            for number, piece in enumerate(arrived["pieces"], start=arrived["first"]):
                self._known[number] = self._make_part(Piece(**piece), tuple(arrived["state"]))
            self._files += 1
        return "ended" if said["ended"] else "waiting"
