"""The end of a round: an agent whose processes succeeded leaves only when that harms nobody.

    done      this node's processes succeeded            set by each node
    finished  every node is done                         set by the store's host
    left      this node needs the store no more          set by each node; the host waits for these

Until `finished` a peer may still crash and ask for another round, or a peer's pod may be lost and a new generation
begin: then this agent goes back to training. If the peers or the store vanish and nothing new is announced within
the grace, the agent leaves: what its own processes had to do is done.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from deepseek_trainer.agent.log import EventLog
from deepseek_trainer.agent.membership import MembershipChanged, MembershipFile
from deepseek_trainer.agent.session import Session
from deepseek_trainer.agent.store import StoreLost

SILENT_S = 15.0
"""A peer whose heartbeat has not changed for this long is gone."""
LINGER_S = 10.0
"""Longest that the host stays for peers to leave, after all are done."""


class Outcome(Enum):
    WAIT = auto()
    LEAVE = auto()
    REJOIN = auto()


class Departure:
    """Asked for its outcome again and again until it is LEAVE or REJOIN."""

    def __init__(
        self, session: Session, file: MembershipFile, log: EventLog, grace_s: float, clock: Callable[[], float]
    ) -> None:
        self._session = session
        self._file = file
        self._log = log
        self._grace_s = grace_s
        self._clock = clock
        self._reachable_at = clock()
        self._finished_at: float | None = None
        self._beats: dict[int, str] = {}
        self._heard_at = clock()
        self._asked_at = float("-inf")

    def outcome(self) -> Outcome:
        if self._file.read() != self._session.membership:
            return Outcome.REJOIN
        try:
            outcome = self._poll()
        except MembershipChanged:
            return Outcome.REJOIN
        except StoreLost as error:
            self._session.reconnect()
            return self._without_store(str(error))
        self._reachable_at = self._clock()
        return outcome

    def _poll(self) -> Outcome:
        session = self._session
        if session.is_over():
            return Outcome.REJOIN
        session.mark("done")
        session.beat()
        if session.membership.host and session.everyone("done"):
            session.finish()
        if session.is_finished():
            session.mark("left")
            return self._linger() if session.membership.host else Outcome.LEAVE
        return self._mind_the_silent()

    def _linger(self) -> Outcome:
        """The host leaves last."""
        self._finished_at = self._finished_at or self._clock()
        waited_s = self._clock() - self._finished_at
        if self._session.everyone("left") or waited_s > LINGER_S:
            return Outcome.LEAVE
        return Outcome.WAIT

    def _mind_the_silent(self) -> Outcome:
        """Leaves when no node that is not done has given a sign of life for a while, and nothing new came."""
        now = self._clock()
        if now - self._asked_at < 1.0:
            return Outcome.WAIT
        self._asked_at = now
        missing = self._session.missing("done")
        beats = self._session.beats_of(missing)
        if beats != self._beats:
            self._beats, self._heard_at = beats, now
        if now - self._heard_at < max(SILENT_S, self._grace_s):
            return Outcome.WAIT
        self._log.warning("leaving without peers", silent_node_ranks=missing, seconds=round(now - self._heard_at))
        if self._session.membership.host:
            self._session.finish()
        return Outcome.LEAVE

    def _without_store(self, reason: str) -> Outcome:
        lost_s = self._clock() - self._reachable_at
        if self._finished_at is None and lost_s < self._grace_s:
            return Outcome.WAIT
        self._log.warning("leaving without the store", reason=reason, seconds=round(lost_s))
        return Outcome.LEAVE
