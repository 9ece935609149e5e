"""One preflight as this agent lives it: its own check processes, what the others say, one verdict, and its end.

Everything ends within the plan's timeout, whoever stops answering: each agent keeps its own clock, a phase that is
over is over, and a store that does not answer is one of the things that can be found out. What is said goes
through the generation's store; docs/architecture.md has the phases.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection
from statistics import median
from typing import TypeVar

from deepseek_trainer.agent.checkers import Checkers
from deepseek_trainer.agent.log import EventLog
from deepseek_trainer.agent.session import Session
from deepseek_trainer.agent.store import StoreLost
from deepseek_trainer.contract import Membership
from deepseek_trainer.preflight.judge import judge_arrivals, judge_results, label
from deepseek_trainer.preflight.phases import ALONE, ARRIVED, CONFIRMED, JUDGED, MEASURED, STAND_IN
from deepseek_trainer.preflight.records import Arrival, Plan, Result, Verdict

T = TypeVar("T")

PROBE_S = 1.0


class PreflightFailed(Exception):
    """The check failed, and this agent is one of those that end."""

    def __init__(self, verdict: Verdict, membership: Membership) -> None:
        super().__init__(verdict.message)
        self.verdict = verdict
        self.membership = membership


class PreflightAbandoned(Exception):
    """The check failed because of others: this agent waits for the next generation."""


class Preflight:
    """`run` it once, in a round that has started."""

    def __init__(
        self,
        session: Session,
        plan: Plan,
        node: str,
        *,
        log: EventLog,
        wait: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """Args: wait: a short pause; what it raises (a new membership, a signal, a round that is over) ends the check."""
        self._session = session
        self._membership = session.membership
        self._plan = plan
        self._node = node
        self._log = log
        self._wait = wait
        self._clock = clock
        self._began = clock()

    def is_overdue(self) -> bool:
        """Whether no call to the store should be waited for any more."""
        return self._clock() >= self._at(JUDGED + ALONE)

    def run(self, start: Callable[[], Checkers]) -> Verdict:
        """Checks this node together with all others; answers the verdict when it is good.

        Raises:
            PreflightFailed, PreflightAbandoned: it is not.
        """
        self._log.info("preflight started", node=self._node or "?", timeout_s=self._plan.timeout_s)
        checkers = start()
        try:
            arrival = self._await(checkers.arrival, ARRIVED) or Arrival(
                error="its check processes were not ready in time"
            )
            if not arrival.error:
                self._log.info("preflight ready", node=self._node or "?", seconds=round(self._clock() - self._began, 1))
            verdict = self._phase("arrival", arrival, ARRIVED)
            if verdict.passed:
                checkers.go(self._at(MEASURED) - self._clock())
                result = self._await(checkers.result, MEASURED) or checkers.unfinished()
                verdict = self._phase("result", result, JUDGED)
        finally:
            checkers.close()
        self._obey(verdict)
        self._report(verdict, result)
        return verdict

    def _phase(self, name: str, own: Arrival | Result, share: float) -> Verdict:
        """Says what this node has to say, and gets the gang's verdict on the phase."""
        first = self._membership.node_rank == 0
        judged_at = self._at(share if first else share + STAND_IN)
        said = False
        while self._clock() < self._at(share + ALONE):
            if not said:
                said = self._try(lambda: self._say(name, own), False)
            if text := self._try(lambda: self._session.settled(f"preflight/{name}"), None):
                return Verdict.model_validate_json(text)
            complete = first and self._try(lambda: self._session.everyone(f"preflight/{name}"), False)
            due = complete or self._clock() >= judged_at
            if due and (text := self._try(lambda: self._judge(name), None)):
                return Verdict.model_validate_json(text)
            self._wait()
        return self._alone()

    def _say(self, name: str, own: Arrival | Result) -> bool:
        self._session.tell(f"preflight/{name}", own.model_dump_json())
        return True

    def _judge(self, name: str) -> str:
        """The verdict on what was said so far, if nobody else has given one."""
        nodes = [entry.node for entry in self._session.entries()]
        told = self._session.told(f"preflight/{name}")
        if name == "arrival":
            verdict = judge_arrivals(nodes, {rank: Arrival.model_validate_json(text) for rank, text in told.items()})
        else:
            results = {rank: Result.model_validate_json(text) for rank, text in told.items()}
            verdict = judge_results(nodes, results, self._plan.min_mbps)
        return self._session.settle(f"preflight/{name}", verdict.model_dump_json())

    def _alone(self) -> Verdict:
        """A verdict without the store: its host is to blame, unless this agent reaches nobody else either."""
        plan, membership = self._plan, self._membership
        others = [(address, port) for rank, address, port in plan.witnesses if rank != membership.node_rank]
        if not membership.host and (not others or any(_reaches(*other) for other in others)):
            said = f"{label(plan.host_node, plan.host_rank)}: the store that it hosts stopped answering"
            return Verdict(passed=False, ranks=(plan.host_rank,), nodes=_known(plan.host_node), message=said)
        said = f"{label(self._node, membership.node_rank)}: it reaches neither the store nor other agents"
        return Verdict(passed=False, ranks=(membership.node_rank,), nodes=_known(self._node), message=said)

    def _obey(self, verdict: Verdict) -> None:
        """Confirms the verdict, and ends this agent's part if it failed.

        The nodes that are named end. One more agent ends, and reports, where a named node can't do so itself.
        """
        until = self._clock() + CONFIRMED * self._plan.timeout_s
        rank, nodes = self._membership.node_rank, range(self._membership.nodes)
        self._try(lambda: self._session.tell("preflight/confirmed", "1"), None)
        if verdict.passed:
            return
        self._log.warning("preflight failed", reason=verdict.message, nodes=",".join(verdict.nodes))
        leaves = rank in verdict.ranks
        if rank == min((other for other in nodes if other not in verdict.ranks), default=None):
            leaves = not verdict.ranks or not self._is_confirmed(verdict.ranks, until)
        if not leaves:
            raise PreflightAbandoned
        if self._membership.host:  # the store ends with this process
            self._is_confirmed(nodes, until)
        raise PreflightFailed(verdict, self._membership)

    def _is_confirmed(self, ranks: Collection[int], until: float) -> bool:
        """Waits until these nodes have confirmed the verdict; False when they don't in time."""
        while self._clock() < until:
            missing = self._try(lambda: self._session.missing("preflight/confirmed"), None)
            if missing is not None and not set(missing) & set(ranks):
                return True
            self._wait()
        return False

    def _report(self, verdict: Verdict, result: Result) -> None:
        own = [pair.mbps for pair in result.pairs if pair.mbps is not None]
        speeds = {
            "min_mbps": min(own, default=None),
            "median_mbps": median(own) if own else None,
            "gang_min_mbps": verdict.min_mbps,
            "gang_median_mbps": verdict.median_mbps,
            "all_reduce_mbps": verdict.reduce_mbps,
        }
        self._log.info(
            "preflight passed",
            node=self._node or "?",
            node_rank=self._membership.node_rank,
            pairs=len(own),
            **{name: round(mbps) for name, mbps in speeds.items() if mbps is not None},
            seconds=round(self._clock() - self._began, 1),
        )

    def _await(self, probe: Callable[[], T | None], share: float) -> T | None:
        while (answer := probe()) is None and self._clock() < self._at(share):
            self._wait()
        return answer

    def _try(self, operation: Callable[[], T], otherwise: T) -> T:
        """The operation on the store; when that does not answer, the connection is made anew in the background."""
        try:
            return operation()
        except StoreLost:
            self._session.reconnect()
            return otherwise

    def _at(self, share: float) -> float:
        return self._began + share * self._plan.timeout_s


def _reaches(address: str, port: int) -> bool:
    """Whether an agent's HTTP server can be connected to."""
    try:
        socket.create_connection((address, port), timeout=PROBE_S).close()
    except OSError:
        return False
    return True


def _known(node: str) -> tuple[str, ...]:
    return (node,) if node else ()
