"""Hangs, as one agent lives them: found, described, settled with the others, and then healed by a new round.

    a watchdog of any agent barks ──► "hang" in the round's store, which every agent asks for once a second
    each agent                    ──► stacks and states of its ranks to the checkpoint volume, then its statement
    node rank 0                   ──► the verdict, when all have spoken or the silent have had their time
    all                           ──► kill their processes, enter the next round; the culprit's agent with the failure

Nobody kills before everybody has written: a rank whose peer is gone leaves the place where it hung. When the store
doesn't answer either, its host is what is silent, and each agent says so for itself. An agent that stays silent can't be
restarted by the others; they wait for it, and their `/progress` tells the operator.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from deepseek_trainer import pulse
from deepseek_trainer.agent import flight, process, stacks
from deepseek_trainer.agent.autopsy import Autopsy, Rank
from deepseek_trainer.agent.handler import MembershipRendezvous
from deepseek_trainer.agent.log import EventLog
from deepseek_trainer.agent.membership import MembershipChanged
from deepseek_trainer.agent.rounds import LocalFailure
from deepseek_trainer.agent.session import Session
from deepseek_trainer.agent.settings import Settings
from deepseek_trainer.agent.status import Status
from deepseek_trainer.agent.store import StoreLost
from deepseek_trainer.agent.verdict import RankState, Statement, Verdict, judge
from deepseek_trainer.agent.watch import Watch
from deepseek_trainer.contract import Env, Failure, Hang

ASK_EVERY_S = 1.0
SILENT_S = 8.0
"""An agent that has said nothing so long after this one is silent."""
JUDGE_S = 4.0
"""So long the others wait for node rank 0's verdict before they judge for themselves."""
CALL, STATEMENT, VERDICT = "hang", "hang-statement", "hang-verdict"


class Hangs:
    """Watches the training processes of one pod."""

    def __init__(
        self,
        settings: Settings,
        handler: MembershipRendezvous,
        status: Status,
        log: EventLog,
        *,
        pause: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._handler = handler
        self._status = status
        self._log = log
        self._pause = pause
        self._clock = clock
        self._ranks: list[Rank] = []
        self._watch = Watch(settings.hang, settings.report_hang, status.report, clock)
        self._asked_at = -math.inf

    def environment(self, start: str, local_rank: int, environ: Mapping[str, str]) -> dict[str, str]:
        """Variables of one training process of that start; `environ` is what it has otherwise."""
        return (
            {Env.PULSE_FILE: str(self._file("pulse", start, local_rank))}
            | stacks.environment(str(self._file("stacks", start, local_rank)), environ)
            | flight.environment(self._settings.run_dir, start, self._settings.backend, environ)
        )

    def started(self, start: str, processes: Mapping[int, tuple[int, int]]) -> None:
        """The processes of a round run: by local rank the global one, and the process' id."""
        self._ranks = [
            Rank(
                rank,
                pid,
                start,
                pulse=self._file("pulse", start, local_rank),
                stacks=self._file("stacks", start, local_rank),
            )
            for local_rank, (rank, pid) in sorted(processes.items())
        ]
        self._watch.started(self._ranks)

    def pulse_files(self) -> dict[int, Path]:
        """The file of each rank's pulse, by global rank."""
        return {rank.rank: rank.pulse for rank in self._ranks}

    def are_ending(self, local_ranks: Iterable[int]) -> bool:
        """Whether one of these processes has begun to end, as the kernel sees it."""
        return any(process.is_ending(self._ranks[local_rank].pid) for local_rank in local_ranks)

    def found(self) -> Failure | None:
        """Settles a hang, if there is one, and answers the failure that stands for it; None: there is none.

        The handler is told of the failure if it is this pod's. Returns when every agent has written what it knows.
        """
        session = self._handler.session
        if session is None or not (self._watch.is_overdue() or self._is_called(session)):
            return None
        try:
            verdict, folder = self._settle(session)
        except MembershipChanged:
            return None
        return self._tell(session, verdict, folder)

    def _file(self, kind: str, start: str, local_rank: int) -> Path:
        return self._settings.run_dir / f"{kind}-{start}-{local_rank}"

    def _is_called(self, session: Session) -> bool:
        """Whether a peer has found a hang; asks once a second."""
        now = self._clock()
        if now - self._asked_at < ASK_EVERY_S:
            return False
        self._asked_at = now
        try:
            return session.settled(CALL) is not None
        except (StoreLost, MembershipChanged):
            return False  # whoever polls the round finds that out as well

    def _settle(self, session: Session) -> tuple[Verdict, Path]:
        """The verdict, and where this pod's ranks are described."""
        self._log.warning("training stands still", seconds=round(self._watch.still_s()))
        autopsy = Autopsy(self._settings, self._ranks, self._log, self._pause)
        try:
            session.settle(CALL, self._settings.pod)
        except StoreLost:
            return self._without_store(), autopsy.perform(session.membership.generation, session.round)
        folder = autopsy.perform(session.membership.generation, session.round)
        try:
            return self._agree(session, self._statement(autopsy)), folder
        except StoreLost:
            return self._without_store(), folder

    def _statement(self, autopsy: Autopsy) -> Statement:
        states = []
        for rank in self._ranks:
            found = pulse.read(rank.pulse)
            step, ticks = (found.step, found.ticks) if found is not None else (None, 0)
            states.append(RankState(rank=rank.rank, state=autopsy.lasting_state(rank), step=step, ticks=ticks))
        return Statement(
            pod=self._settings.pod,
            node=self._settings.node,
            ranks=tuple(states),
            still_s=round(self._watch.still_s(), 1),
        )

    def _agree(self, session: Session, statement: Statement) -> Verdict:
        session.tell(STATEMENT, statement.model_dump_json())
        membership = session.membership
        is_judge = membership.node_rank == 0
        end = self._clock() + SILENT_S + (0.0 if is_judge else JUDGE_S)
        while (settled := session.settled(VERDICT)) is None and self._clock() < end:
            if is_judge and session.everyone(STATEMENT):
                break
            self._pause(max(0.1, membership.nodes / 1000))
        settled = settled or session.settle(VERDICT, self._judge(session).model_dump_json())
        return Verdict.model_validate_json(settled)

    def _judge(self, session: Session) -> Verdict:
        statements = {rank: Statement.model_validate_json(text) for rank, text in session.told(STATEMENT).items()}
        mute = set(session.missing(STATEMENT)) if len(statements) < session.membership.nodes else set()
        silent = sorted(mute & set(session.missing("done"))) if mute else []
        entries = session.entries() if silent else []
        return judge(statements, silent, {rank: (entry.pod, entry.node) for rank, entry in enumerate(entries)})

    def _without_store(self) -> Verdict:
        """The store's host doesn't answer."""
        joined = self._handler.joined
        host = joined.host if joined is not None else None
        if host is None:
            return Verdict(still_s=self._watch.still_s())
        return Verdict(
            reason="silent", node_rank=host.node_rank, pod=host.pod, node=host.node, still_s=self._watch.still_s()
        )

    def _tell(self, session: Session, verdict: Verdict, folder: Path) -> Failure:
        """Makes the verdict known: to the log, to whoever asks for the progress, and to the next round."""
        hang = Hang(
            generation=session.membership.generation,
            round=session.round,
            reason=verdict.reason,
            rank=verdict.rank,
            pod=verdict.pod,
            node=verdict.node,
            step=verdict.step,
            seconds=verdict.still_s,
            stacks=str(folder),
        )
        self._status.hung(hang)
        message = describe(verdict, folder)
        self._log.warning("hang", reason=message, failed_rank=verdict.rank, failed_pod=verdict.pod, stacks=folder)
        failure = Failure(kind="hang", rank=verdict.rank, message=message)
        blamed = 0 if verdict.node_rank is None else verdict.node_rank
        if blamed == session.membership.node_rank:
            self._handler.local_failure = LocalFailure(time=time.time() - verdict.still_s, failure=failure)
        return failure


def describe(verdict: Verdict, folder: Path) -> str:
    """The verdict in a sentence."""
    where = f" (pod {verdict.pod}{f', node {verdict.node}' if verdict.node else ''})" if verdict.pod else ""
    subject = {
        "frozen": f"rank {verdict.rank}{where} is frozen (process state {verdict.state})",
        "behind": f"rank {verdict.rank}{where} is behind all others",
        "silent": f"the agent of node rank {verdict.node_rank}{where} doesn't answer",
    }
    who = subject[verdict.reason] if verdict.reason else "no rank stands out"
    after = "" if verdict.step is None else f" after step {verdict.step}"
    return f"no step for {verdict.still_s:.0f} s{after}: {who}; stacks are in {folder}"
