"""One generation as this agent lives it: the membership, the connection to its store, and the round it is in.

Every key carries the generation and the round, so nothing that an older generation writes is ever read.
"""

from __future__ import annotations

from collections.abc import Callable

from deepseek_trainer.agent.rounds import Entry, Start, start
from deepseek_trainer.agent.store import PrefixStore, Store, StoreLink, StoreLost
from deepseek_trainer.contract import Membership
from deepseek_trainer.preflight.records import Plan

RECONNECT_S = 0.5
HEARTBEAT_S = 1.0


class Session:
    """The keys of a generation. Every method may raise StoreLost; after `reconnect` it can be called again."""

    def __init__(
        self,
        membership: Membership,
        open_store: Callable[[], Store],
        *,
        idle: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """Args: idle: called while the store lets us wait; what it raises passes through every method."""
        self.membership = membership
        self.round = 0
        self.left_round = -1
        """Rounds up to this one are over for this agent, whatever the store says (or can't be told) about them."""
        self._open_store = open_store
        self._idle = idle
        self._clock = clock
        self._link = StoreLink(open_store, idle=idle)
        self._linked_at = clock()
        self._beats = 0
        self._beat_at = float("-inf")

    @property
    def lost(self) -> str:
        return self._link.lost

    @property
    def is_open(self) -> bool:
        return self._link.is_open

    def reconnect(self) -> None:
        """Tries again if the connection is lost, at most twice a second."""
        if self._link.lost and self._clock() - self._linked_at >= RECONNECT_S:
            self._link.close()
            self._link, self._linked_at = StoreLink(self._open_store, idle=self._idle), self._clock()

    def torch_store(self) -> Store:
        """The round's own room in the store, for torch's agent."""
        return PrefixStore(self._key("torch"), self._link.store)

    def find_round(self) -> None:
        """Advances to the first round that is not over, and ends those that this agent has left."""
        if self.left_round >= self.round:
            self._link.claim(self._key("over", number=self.left_round), "1")
            self.round = self.left_round + 1
        while self._link.check([self._key("over")]):
            self.round += 1

    def enter(self, entry: Entry) -> bool:
        """Puts this agent into the round. False when a predecessor of this agent is in it: the round is then over."""
        mine = entry.model_dump_json()
        self._beat()  # before the entry: whoever is in a round has a beat
        found = self._link.claim(self._key("entry", self.membership.node_rank), mine)
        if Entry.model_validate_json(found).token == entry.token:
            return True
        self.left_round = self.round
        return False

    def is_over(self) -> bool:
        return self._link.check([self._key("over")])

    def try_start(self, max_process_restarts: int, preflight: Plan | None = None) -> Start | None:
        """The round's Start, once it is there; node rank 0 makes it when all have entered."""
        if self.membership.node_rank == 0 and self._link.check(self._all("entry")):
            begun = start(self.entries(), self.round, max_process_restarts, preflight)
            self._link.claim(self._key("start"), begun.model_dump_json())
        if not self._link.check([self._key("start")]):
            return None
        return Start.model_validate_json(self._link.get([self._key("start")])[0])

    def entries(self) -> list[Entry]:
        """Everyone's entry, by node rank; only once the round has started."""
        return [Entry.model_validate_json(text) for text in self._link.get(self._all("entry"))]

    def entry(self, node_rank: int) -> Entry:
        """One node's entry; only once the round has started."""
        return Entry.model_validate_json(self._link.get([self._key("entry", node_rank)])[0])

    def say(self, what: str, text: str) -> None:
        """Says something as this node, in place of what it said before."""
        self._link.set(self._key(what, self.membership.node_rank), text)

    def said(self, what: str, ranks: list[int]) -> dict[int, str]:
        """What each of these nodes said last; none for a silent one. Two calls, or one more a node if any is silent."""
        keys = {rank: self._key(what, rank) for rank in ranks}
        if not self._link.check(list(keys.values())):
            keys = {rank: key for rank, key in keys.items() if self._link.check([key])}
        return dict(zip(keys, self._link.get(list(keys.values())), strict=True)) if keys else {}

    def tell(self, what: str, text: str) -> None:
        """Says something as this node, once in the round."""
        self._link.claim(self._key(what, self.membership.node_rank), text)

    def told(self, what: str) -> dict[int, str]:
        """What the nodes have said, by node rank; the silent ones are missing. One call a node if there are any."""
        return self.said(what, list(range(self.membership.nodes)))

    def settle(self, what: str, text: str) -> str:
        """Decides something for the whole round; the first one to do so wins, and the answer is what was decided."""
        return self._link.claim(self._key(what), text)

    def settled(self, what: str) -> str | None:
        """What was decided, if it was."""
        return self._link.get([self._key(what)])[0] if self._link.check([self._key(what)]) else None

    def room(self, what: str) -> str:
        """A prefix of keys of this round, for others that use the store."""
        return self._key(what)

    def beat(self) -> None:
        """Shows the others that this agent lives, at most once a second."""
        if self._clock() - self._beat_at >= HEARTBEAT_S:
            self._beat()

    def _beat(self) -> None:
        self._beat_at, self._beats = self._clock(), self._beats + 1
        self._link.set(self._key("beat", self.membership.node_rank), str(self._beats))

    def beats(self) -> list[str]:
        """The last beat of every node, by node rank; only once the round has started."""
        return self._link.get(self._all("beat"))

    def has_left(self, rank: int) -> bool:
        return self._link.check([self._key("left", rank)])

    def mark(self, what: str) -> None:
        """Sets this node's flag (done, left) in the round."""
        self._link.claim(self._key(what, self.membership.node_rank), "1")

    def everyone(self, what: str) -> bool:
        return self._link.check(self._all(what))

    def missing(self, what: str) -> list[int]:
        """Node ranks without this flag or entry. One call a node: for messages and for ends, not for loops."""
        return [rank for rank in range(self.membership.nodes) if not self._link.check([self._key(what, rank)])]

    def beats_of(self, ranks: list[int]) -> dict[int, str]:
        """The last beat of each of these nodes; none for a node that never beat."""
        return self.said("beat", ranks) if ranks else {}

    def finish(self) -> None:
        self._link.claim(self._key("finished"), "1")

    def is_finished(self) -> bool:
        return self._link.check([self._key("finished")])

    def describe_missing(self) -> str:
        """For people: which node ranks have not entered the round."""
        try:
            return f"node ranks {self.missing('entry')} of {self.membership.nodes} in round {self.round}"
        except StoreLost as error:
            return f"the store at {self.membership.master}:{self.membership.port} ({error})"

    def close(self) -> None:
        self._link.close()

    def _key(self, *parts: object, number: int | None = None) -> str:
        number = self.round if number is None else number
        return "/".join(map(str, ("generation", self.membership.generation, "round", number, *parts)))

    def _all(self, what: str) -> list[str]:
        return [self._key(what, rank) for rank in range(self.membership.nodes)]
