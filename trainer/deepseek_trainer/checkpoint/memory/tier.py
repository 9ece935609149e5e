"""The last committed checkpoint in the memory of the nodes, so that a start need not read the volume, or the object store.

    a shard is written ──► its second copy, in memory of the node that writes it
    it is committed    ──► what no longer counts is deleted; the next node fetches a copy of its own, in a thread
    a start            ──► each file: its own node's memory ──► another's ──► where it was committed (`Committed`), hashed
                           there before it is used

Rules
- Memory decides nothing: the walk over the volume, or the object store, chooses the checkpoint, and its manifest says by sha256 which files of
  memory are a part of it. All others are ignored, be they older, damaged, or of a newer step that was never committed.
- Nothing waits for memory, and nothing fails for it. What is not there, or can't be had, is read where it was committed.
"""

from __future__ import annotations

import hashlib
import io
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from deepseek_trainer import durable
from deepseek_trainer.agent.network import own_address
from deepseek_trainer.checkpoint import dcp, layout, verify
from deepseek_trainer.checkpoint.memory.copying import Copying, Wanted
from deepseek_trainer.checkpoint.memory.peers import Peer, PeerError, Server
from deepseek_trainer.checkpoint.memory.shelf import Shelf, ShelfCopy
from deepseek_trainer.config import CheckpointSpec
from deepseek_trainer.contract import Env
from deepseek_trainer.distributed.world import World
from deepseek_trainer.errors import UnavailableError

log = logging.getLogger(__name__)

HAND_OVER_S = 10.0
"""How long those who stay may take to fetch the parts of those who go."""
Files = Mapping[str, Mapping[str, Any]]
"""Of a manifest: size and sha256 by name."""


@dataclass(frozen=True)
class Committed:
    """Where a checkpoint was committed, a folder on a volume or a save in an object store: for what memory doesn't have.

    Attributes:
        where: as people are told.
        opened: opens a file of it.
        problem: reads a file of it and says what is wrong with it; "" for nothing.
    """

    where: str
    opened: dcp.Source
    problem: Callable[[str], str]


@dataclass(frozen=True)
class Node:
    """A node, as its lowest rank tells the others.

    Attributes:
        port: where its files are served.
        held: the sha256 of the files that were in its memory when the ranks met.
    """

    address: str
    port: int
    held: frozenset[str]


class Memory:
    """The memory of all nodes, as one rank sees it. A node is named by its lowest rank."""

    def __init__(self, world: World, shelf: Shelf | None, address: str, *, peer: bool) -> None:
        """The ranks meet. A collective.

        Args:
            shelf: of this node; None: it has none that works.
            address: of this node.
            peer: whether each node keeps its neighbour's part, too.
        """
        self._peer, self._size, self._rank = peer, world.size, world.rank
        self._own = world.rank - world.local_rank
        self._server = _serve(shelf, address) if shelf is not None and not world.local_rank else None
        told = None
        if shelf is not None and self._server is not None:
            shelf.clean()
            told = Node(address, self._server.server_port, frozenset(shelf.held()))
        met = world.gather((self._own, told, secrets.token_hex(32)))
        token = met[0][2]
        self._node_of = [node for node, _, _ in met]
        self._nodes: dict[int, Node] = {node: told for node, told, _ in met if told is not None}
        self._mates = [rank for rank, node in enumerate(self._node_of) if node == self._own]
        self._shelf = shelf if self._own in self._nodes else None
        self._token = token
        self._kept: frozenset[str] = frozenset()
        self._copying: Copying | None = None
        if self._server is not None and shelf is not None:
            self._server.token, self._copying = token, Copying(shelf, token)

    def close(self) -> None:
        """Serves nobody any more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    # --- before a start ---

    def found(self, files: Files, world: World) -> dict[str, int]:
        """The files that are whole in a node's memory, and that node: each is hashed by a rank there. A collective."""
        kept: dict[str, int] = {}
        holders = {name: self.holders(name, entry["sha256"]) for name, entry in files.items()}
        for turn in range(max(map(len, holders.values()), default=0)):
            dealt = {name: nodes[turn] for name, nodes in holders.items() if name not in kept and turn < len(nodes)}
            if dealt:
                for whole in world.gather(self.whole(dealt, files)):
                    kept |= {name: dealt[name] for name in whole}
        return kept

    def holders(self, name: str, sha256: str) -> list[int]:
        """The nodes that say that they have a file: the one that looks after it first, and then those behind it."""
        nodes = sorted(self._nodes)
        first = self._home(name)
        behind = [node for node in nodes if node >= first] + [node for node in nodes if node < first]
        return [node for node in behind if sha256 in self._nodes[node].held]

    def whole(self, dealt: Mapping[str, int], files: Files) -> list[str]:
        """Hashes what is dealt to this rank, in its own node's memory.

        Args:
            dealt: node by file.

        Returns:
            The names of the files that are what they are named for. The others are deleted.
        """
        shelf = self._shelf
        own = sorted(name for name, node in dealt.items() if node == self._own)
        mine = own[self._mates.index(self._rank) :: len(self._mates)]
        if shelf is None:
            return []

        def is_whole(name: str) -> bool:
            path = shelf.path(files[name]["sha256"])
            try:
                problem = durable.difference(path, files[name])
            except OSError as error:
                problem = str(error)
            if problem:
                log.warning("passed over in memory %s: %s", name, problem)
                path.unlink(missing_ok=True)
            return not problem

        right = verify.side_by_side(is_whole, mine)
        return [name for name, whole in zip(mine, right, strict=True) if whole]

    # --- a start ---

    def source(self, committed: Committed, files: Files, kept: Mapping[str, int]) -> dcp.Source:
        """Where a checkpoint is read.

        Args:
            kept: the node in whose memory a file was hashed; those that are not in it were hashed where it was committed.
        """

        @contextmanager
        def opened(name: str) -> Iterator[dcp.Opened]:
            entry, node = files[name], kept.get(name)
            if node is None:
                with committed.opened(name) as file:
                    yield file
            elif node == self._own and self._shelf is not None:
                with dcp.OpenFile.open(self._shelf.path(entry["sha256"])) as file:
                    yield file
            else:
                with closing(Peer(self._nodes[node].address, self._nodes[node].port, self._token)) as peer:
                    yield _Fetched(peer, committed, name, entry)

        return opened

    def tally(self, files: Files, kept: Mapping[str, int]) -> dict[str, int]:
        """Bytes of a checkpoint by where they were: memory (of the node that looks after them), peer, volume (or store)."""
        told = {"memory": 0, "peer": 0, "volume": 0}
        for name, entry in files.items():
            where = "volume" if name not in kept else "memory" if kept[name] == self._home(name) else "peer"
            told[where] += entry["bytes"]
        return told

    # --- while it trains ---

    def copy(self) -> ShelfCopy:
        """Takes the second copy of a file that is being written."""
        assert self._shelf is not None  # noqa: S101  asked for by the caller
        return self._shelf.copy()

    @property
    def copies(self) -> Callable[[], ShelfCopy] | None:
        """What makes second copies on this node, if it has memory for them."""
        return self.copy if self._shelf is not None else None

    def committed(self, files: Files) -> None:
        """These files are the newest checkpoint: what is no part of it goes, and what is missing is fetched."""
        if self._shelf is not None and self._copying is not None:
            with _unharmed():
                self._keep(self._shelf, self._copying, files)

    def failed(self) -> None:
        """What was being saved is not committed: it goes."""
        if self._shelf is not None and self._copying is not None:
            with _unharmed():
                self._shelf.keep_only(self._kept)

    def _keep(self, shelf: Shelf, copying: Copying, files: Files) -> None:
        nodes = sorted(self._nodes)
        before = nodes[nodes.index(self._own) - 1] if self._peer else self._own
        ours = {
            entry["sha256"]: (name, entry) for name, entry in files.items() if self._home(name) in (self._own, before)
        }
        self._kept = frozenset(ours)
        copying.want([])
        shelf.keep_only(self._kept)
        missing = [told for sha256, told in ours.items() if sha256 not in shelf.held()]
        if len(nodes) > 1:
            copying.want([self._wanted(name, entry) for name, entry in missing])

    def hand_over(self, world: World) -> None:
        """Waits until each node has its neighbour's part, or for so long as is worth it. A collective."""
        if self._copying is not None:
            self._copying.wait(HAND_OVER_S)
        world.gather(None)  # until then all are there to be asked

    def _home(self, name: str) -> int:
        return self._node_of[layout.home(name, self._size)]

    def _wanted(self, name: str, entry: Mapping[str, Any]) -> Wanted:
        nodes = sorted(self._nodes)
        at = nodes.index(self._home(name)) if self._home(name) in nodes else 0
        asked = [nodes[at], nodes[(at + 1) % len(nodes)]]
        sources = [(self._nodes[node].address, self._nodes[node].port) for node in asked if node != self._own]
        return Wanted(entry["sha256"], entry["bytes"], tuple(sources))


class _Fetched:
    """A file in another node's memory, and where it was committed when that fails."""

    def __init__(self, peer: Peer, committed: Committed, name: str, entry: Mapping[str, Any]) -> None:
        self._peer, self._committed, self._name, self._entry = peer, committed, name, entry
        self._elsewhere = False

    def part(self, offset: int, length: int) -> IO[bytes]:
        return io.BytesIO(self.read(offset, length))

    def read(self, offset: int, length: int | None) -> bytes:
        size = self._entry["bytes"] - offset if length is None else length
        if not self._elsewhere:
            try:
                content = self._peer.read(self._entry["sha256"], offset, size)
                if size < self._entry["bytes"] or hashlib.sha256(content).hexdigest() == self._entry["sha256"]:
                    return content
                reason = "its content has changed"
            except PeerError as error:
                reason = str(error)
            log.warning("read where it was committed %s: %s", self._name, reason)
            self._elsewhere = True
            if problem := self._committed.problem(self._name):
                raise UnavailableError(f"{self._committed.where}: {problem}, and it can't be had from memory: {reason}")
        with self._committed.opened(self._name) as file:
            return file.read(offset, length)


@contextmanager
def _unharmed() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.warning("memory doesn't keep what it should: %s", error)


def opened(checkpoint: CheckpointSpec, world: World, environ: Mapping[str, str]) -> Memory | None:
    """The memory of all nodes, if a job wants it. A collective."""
    spec = checkpoint.memory
    if spec is None:
        return None
    shelf: Shelf | None
    try:
        shelf = Shelf(Path(spec.directory), spec.bytes)
    except OSError as error:
        log.warning("no checkpoint is kept in memory: %s: %s", spec.directory, error)
        shelf = None
    return Memory(world, shelf, environ.get(Env.POD_IP) or own_address(), peer=spec.peer)


def _serve(shelf: Shelf, address: str) -> Server | None:
    try:
        return Server(address, shelf)
    except OSError as error:
        log.warning("no checkpoint is kept in memory: other nodes can't be served at %s: %s", address, error)
        return None
