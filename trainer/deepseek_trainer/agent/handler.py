"""The rendezvous handler: who is in the world comes from the membership file, the rest is settled in the store.

    membership file ──► generation: members, node ranks, the store's host        (the operator's word)
    store           ──► rounds within it: a crashed process makes the next one   (the agents' word)

`next_rendezvous` blocks until a round of the newest generation starts with this pod in it. `num_nodes_waiting`
is how torch's agent asks whether its workers must stop: yes, as soon as the file or the round has changed. A lost
store is no failure: it is retried until the file changes, because the operator replaces whoever hosted it.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.rendezvous.api import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

from deepseek_trainer.agent import checkers
from deepseek_trainer.agent.departure import Departure
from deepseek_trainer.agent.fence import Fence
from deepseek_trainer.agent.log import EventLog
from deepseek_trainer.agent.membership import MembershipChanged, MembershipFile
from deepseek_trainer.agent.network import free_port, own_address
from deepseek_trainer.agent.patience import Patience
from deepseek_trainer.agent.preflight import Preflight, PreflightAbandoned
from deepseek_trainer.agent.rendezvous import BACKEND
from deepseek_trainer.agent.rounds import Culprit, Entry, Host, LocalFailure, Start
from deepseek_trainer.agent.session import Session
from deepseek_trainer.agent.settings import Settings
from deepseek_trainer.agent.silence import Silence
from deepseek_trainer.agent.store import Store, StoreLost, StoreServers, connect
from deepseek_trainer.config import ConfigError
from deepseek_trainer.contract import ExitCode, Membership
from deepseek_trainer.preflight.records import Plan

POLL_S = 0.05


class ProcessRestartsExhausted(Exception):
    """A training process of this pod failed first, and it may not be started again in place."""

    def __init__(self, culprit: Culprit) -> None:
        super().__init__(culprit.failure.message)
        self.culprit = culprit


@dataclass(frozen=True, slots=True)
class Joined:
    """The round that this agent is in."""

    membership: Membership
    round: int
    culprit: Culprit | None
    """Whose failure ended the round before, if one did."""
    host: Host | None = None
    """Who serves the store."""


class MembershipRendezvous(RendezvousHandler):
    """torch's rendezvous interface over the membership file and the generation's store."""

    def __init__(
        self,
        settings: Settings,
        file: MembershipFile,
        log: EventLog,
        *,
        run_id: str,
        environment: Callable[[], Mapping[str, str]] = dict,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        on_silence: Callable[[Silence], None] = lambda silence: None,
    ) -> None:
        """The handler of one pod.

        Args:
            environment: variables for check processes, beside the agent's own; asked for before each check.
            on_silence: told, on node rank 0, who of the gang gives no sign of life, again and again.
            pause: waits that many seconds; it may raise to end a wait, for example at SIGTERM.
        """
        self._settings = settings
        self._file = file
        self._log = log
        self._run_id = run_id
        self._environment = environment
        self._pause = pause
        self._clock = clock
        self._on_silence = on_silence
        self._silence: Silence | None = None
        self._fence = Fence(settings.checkpoint_dir, settings.run_id, log, clock, fenced_s=settings.fence_grace_s)
        self._token = uuid.uuid4().hex
        self._servers = StoreServers(settings.pod_ip)
        self._session: Session | None = None
        self._abandoned_generation = 0
        self._polled_at = float("-inf")
        self._closed = False
        self._checked = False
        self._preflight: Preflight | None = None
        self.local_failure: LocalFailure | None = None
        """Set by the agent before it asks for the next round, when one of its own processes failed."""
        self.joined: Joined | None = None

    def next_rendezvous(self) -> RendezvousInfo:
        """Blocks until a round starts; see RendezvousHandler.

        Raises:
            RendezvousTimeoutError: no round started in time; the message names who or what was awaited.
            ProcessRestartsExhausted: this pod's failure ends it.
            PreflightFailed: the check of the gang failed, and this pod is one of those that end.
            ConfigError: the pods do not fit together.
        """
        patience = Patience(self._settings.rendezvous_timeout_s, self._log, self._pause, self._clock)
        if self._session is not None:
            self._session.left_round = self._session.round
        while True:
            membership = self._file.read()
            if membership is None or membership.generation <= self._abandoned_generation:
                patience.wait(POLL_S, self._describe_absence)
                continue
            if self._fence.is_over(membership.generation):
                self._fence.bear(membership.generation)
                patience.wait(POLL_S, self._describe_absence)
                continue
            if membership.planned and self._is_saved():
                self.local_failure = None  # they ended because a peer's processes did, to move
            session = self._session_of(membership)
            try:
                start = self._enter(session, patience)
                return self._begin(session, start)
            except MembershipChanged:
                continue
            except StoreLost as error:
                reason = str(error)
                self._listen(session, lambda silence: silence.lose_store())
                patience.wait(POLL_S, lambda: f"the store at {membership.master}:{membership.port}: {reason}")  # noqa: B023
                session.reconnect()

    def num_nodes_waiting(self) -> int:
        """1 when the workers must stop for another round or generation, else 0. Never blocks for long."""
        session = self._session
        if session is None or self.has_moved():
            return 1
        if self._fence.is_over(session.membership.generation):
            return 1
        now = self._clock()
        if now - self._polled_at < _poll_interval_s(session.membership.nodes):
            return 0
        self._polled_at = now
        try:
            session.beat()
            if session.is_over():
                return 1
            self._listen(session, lambda silence: silence.look())
        except MembershipChanged:
            return 1
        except StoreLost:
            session.reconnect()  # in the background: training goes on without its store
            self._listen(session, lambda silence: silence.lose_store())
        return 0

    @property
    def session(self) -> Session | None:
        """The present generation; None before the first rendezvous."""
        return self._session

    def is_planned(self) -> bool:
        """Whether the file names a next generation that can wait until the training processes have saved."""
        session, named = self._session, self._file.read()
        return session is not None and named is not None and named != session.membership and named.planned

    def has_moved(self) -> bool:
        """Whether the file names another generation than the present one, in which nobody asks who failed in this one."""
        return self._session is not None and self._file.read() != self._session.membership

    def beat(self) -> None:
        """Shows the peers of the present round that this agent lives. Never raises, never waits."""
        if self._session is not None:
            with contextlib.suppress(MembershipChanged, StoreLost, SignalException):
                self._session.beat()

    def farewell(self) -> None:
        """Tells the peers that this agent's silence is no reason to worry. Never raises, never waits."""
        if self._session is not None:
            with contextlib.suppress(MembershipChanged, StoreLost, SignalException):
                self._session.mark("left")

    def silence(self) -> Silence:
        """Who of the present round gives no sign of life; nobody is known to at first."""
        assert self._session is not None  # noqa: S101 - processes run only after a rendezvous
        return Silence(self._session, self._clock)

    def departure(self) -> Departure:
        """The end of this round, for an agent whose processes have all succeeded."""
        assert self._session is not None  # noqa: S101 - processes run only after a rendezvous
        return Departure(self._session, self._file, self._log, self._settings.departure_grace_s, self._clock)

    def get_backend(self) -> str:
        return BACKEND

    def get_run_id(self) -> str:
        return self._run_id

    def is_closed(self) -> bool:
        return self._closed

    def set_closed(self) -> None:
        self._closed = True

    def shutdown(self) -> bool:
        """Lets go of the store; one that this process serves ends with it."""
        if self._session is not None:
            self._session.close()
            self._session = None  # torch ends a server when nothing refers to it any more
        self._servers.close()
        self._closed = True
        return True

    def _session_of(self, membership: Membership) -> Session:
        if self._session is None or self._session.membership.generation != membership.generation:
            if self._session is not None:
                self._session.close()
            self.local_failure = None  # an older generation's failure is settled by the new one
            self._session = Session(
                membership,
                lambda: self._open_store(membership),
                idle=lambda: self._idle(membership),
                clock=self._clock,
            )
            self._log.info("generation found", found=membership.generation, host=membership.host)
        return self._session

    def _open_store(self, membership: Membership) -> Store:
        if membership.host:
            return self._servers.serve(membership.port)
        return connect(membership.master, membership.port)

    def _enter(self, session: Session, patience: Patience) -> Start:
        """Enters rounds until one starts."""
        self._await_store(session, patience)
        while True:
            session.find_round()
            if session.enter(self._entry(session.membership)) and (start := self._await_start(session, patience)):
                return start

    def _await_store(self, session: Session, patience: Patience) -> None:
        membership = session.membership
        while not session.is_open:
            self._check_file(membership)
            if session.lost:
                raise StoreLost(session.lost)
            patience.wait(POLL_S, lambda: f"the store at {membership.master}:{membership.port}")

    def _await_start(self, session: Session, patience: Patience) -> Start | None:
        """The Start of the session's round; None when the round is over before it started."""
        while True:
            self._check_file(session.membership)
            if session.is_over():
                return None
            session.beat()
            if start := session.try_start(self._settings.max_process_restarts, self._settings.preflight):
                return start
            self._listen(session, lambda silence: silence.wait_for_entries())
            patience.wait(POLL_S, session.describe_missing)

    def _begin(self, session: Session, start: Start) -> RendezvousInfo:
        """Obeys the round's Start."""
        membership = session.membership
        if start.error:
            raise ConfigError(f"job {self._settings.job}: {start.error}")
        if start.give_up and start.culprit is not None:
            if start.culprit.node_rank == membership.node_rank:
                raise ProcessRestartsExhausted(start.culprit)
            self._abandoned_generation = membership.generation
            self._log.warning("generation given up by a peer", **_describe(start.culprit))
            raise MembershipChanged
        if start.culprit is not None:
            self._log.warning("round follows a process failure", **_describe(start.culprit))
        if start.preflight is not None:
            self._check_gang(session, start.preflight)
        self.local_failure = None
        if membership.node_rank == 0:
            self._fence.begin(membership.generation)
        self.joined = Joined(membership, session.round, start.culprit, start.host)
        bootstrap = RendezvousStoreInfo(master_addr=start.master_addr, master_port=start.master_port)
        return RendezvousInfo(session.torch_store(), membership.node_rank, membership.nodes, bootstrap)

    def _check_gang(self, session: Session, plan: Plan) -> None:
        """The preflight, before the processes of a gang with a new member start."""

        def wait() -> None:
            self._pause(max(POLL_S, _poll_interval_s(session.membership.nodes)))
            self._check_file(session.membership)
            with contextlib.suppress(StoreLost):
                if session.is_over():
                    raise MembershipChanged

        check = Preflight(session, plan, self._settings.node, log=self._log, wait=wait, clock=self._clock)
        self._preflight = check
        try:
            check.run(lambda: checkers.start(self._settings, session, plan, self._environment(), self._clock))
        except PreflightAbandoned:
            self._abandoned_generation = session.membership.generation
            raise MembershipChanged from None
        finally:
            self._preflight = None
        self._checked = True

    def _listen(self, session: Session, listen: Callable[[Silence], None]) -> None:
        """Node rank 0 keeps watch over the others."""
        if session.membership.node_rank != 0:
            return
        if self._silence is None or not self._silence.is_about(session):
            self._silence = Silence(session, self._clock)
        listen(self._silence)
        self._on_silence(self._silence)

    def _entry(self, membership: Membership) -> Entry:
        return Entry(
            token=self._token,
            pod=self._settings.pod,
            address=self._settings.pod_ip or own_address(),
            procs=self._settings.proc_per_node,
            port=free_port(),
            node=self._settings.node,
            agent_port=self._settings.agent_port,
            host=membership.host,
            checked=self._checked,
            failure=self.local_failure,
        )

    def _is_saved(self) -> bool:
        return self.local_failure is not None and self.local_failure.failure.exit_code == ExitCode.PREEMPTED

    def _idle(self, membership: Membership) -> None:
        """While the store is slow to answer: the file and the signals go on to be obeyed."""
        self._pause(0)
        self._check_file(membership)
        if self._preflight is not None and self._preflight.is_overdue():
            raise StoreLost("no answer in time for the preflight")

    def _check_file(self, membership: Membership) -> None:
        if self._file.read() != membership or self._fence.is_over(membership.generation):
            raise MembershipChanged

    def _describe_absence(self) -> str:
        newer = f" newer than {self._abandoned_generation}" if self._abandoned_generation else ""
        return f"a generation{newer} with pod {self._settings.pod} in it, in {self._file.path}"


def create(settings: Settings, *, run_id: str) -> MembershipRendezvous:
    """The handler for plain torchrun, which has no agent of ours around it."""
    log = EventLog(lambda: {"job": settings.job, "pod": settings.pod})
    return MembershipRendezvous(settings, MembershipFile(settings.membership_file, log), log, run_id=run_id)


def _poll_interval_s(nodes: int) -> float:
    """Keeps the load of the store's host at some thousand questions a second, whatever the size of the world."""
    return max(0.1, nodes / 2000)


def _describe(culprit: Culprit) -> dict[str, object]:
    failure = culprit.failure
    return {
        "failed_pod": culprit.pod,
        "failed_rank": failure.rank,
        "exit_code": failure.exit_code,
        "signal": failure.signal,
        "reason": failure.message.splitlines()[-1] if failure.message else "",
    }
