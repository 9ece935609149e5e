"""What agents tell each other through the store, and what follows from it: pure.

A generation consists of rounds. Each agent enters a round with an Entry; when all entries are there, node rank 0
answers with a Start that everyone obeys. A round is over as soon as any agent says so, and the next one begins.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from deepseek_trainer.contract import ExitCode, Failure
from deepseek_trainer.errors import PeerLostError
from deepseek_trainer.preflight.records import Plan

RETRYABLE_ELSEWHERE = frozenset({ExitCode.UNAVAILABLE})
"""Exit status of a training process that ends its pod, unless it was a peer that vanished."""
FATAL = frozenset({ExitCode.DATA_ERROR, ExitCode.CONFIG_ERROR})
"""Exit status of a training process that ends its pod at once: another try can't help."""
KILLED = "SIGKILL"
"""No process ends by this signal because of its peers: the kernel or somebody chose it."""

WITNESSES = 4
"""Agents that one which has lost the store tries to reach, to learn whether it is itself cut off."""


class Record(BaseModel):
    """What agents write into the store: frozen, and tolerant of fields from a newer peer."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class LocalFailure(Record):
    """Why an agent left the round before: its first failed training process."""

    time: float
    """Unix seconds at which the process failed, as near to the cause as is known."""
    failure: Failure
    peer_lost: bool = False
    """The process said that it had lost a peer."""

    @classmethod
    def of(cls, failure: Failure, time: float) -> LocalFailure:
        """A process' failure as its agent found it."""
        peer_lost = failure.exit_code in RETRYABLE_ELSEWHERE and failure.message.startswith(PeerLostError.__name__)
        return cls(time=time, failure=failure, peer_lost=peer_lost)

    @property
    def precedence(self) -> tuple[bool, bool, bool, float]:
        """Of several failures the least is the cause, and the others are its victims, whose peer had gone.

        Whatever can't be helped by another try decides. A process that says that a peer could not be reached is a victim,
        whenever it was seen. One that was killed left no traceback whose time is known, and is seen when its agent looks:
        it comes before the earliest of the others.
        """
        failure = self.failure
        code = failure.exit_code
        return code not in FATAL, code in RETRYABLE_ELSEWHERE, failure.signal != KILLED, self.time


class Entry(Record):
    """One agent enters a round."""

    token: str
    """Made up once by each agent process: tells a restarted agent from its predecessor."""
    pod: str
    address: str
    procs: int
    port: int
    """A free port of this pod, for the training processes' own store should it be node rank 0."""
    node: str = ""
    """Kubernetes' name of the node."""
    agent_port: int = 0
    """Of this agent's HTTP server."""
    host: bool = False
    """Hosts the generation's store."""
    checked: bool = False
    """Has passed a preflight since this agent process began."""
    failure: LocalFailure | None = None


class Culprit(Record):
    """The first process failure of the round before, over all nodes."""

    node_rank: int
    pod: str
    failure: Failure
    peer_lost: bool = False
    """All that is known is that its process had lost a peer: whose, nobody said."""


class Host(Record):
    """The member that hosts the generation's store."""

    node_rank: int
    pod: str
    node: str


class Start(Record):
    """Node rank 0's answer to a complete set of entries."""

    master_addr: str = ""
    master_port: int = 0
    culprit: Culprit | None = None
    give_up: bool = False
    """The culprit's pod ends; the others wait for the next generation."""
    preflight: Plan | None = None
    """The gang is checked before the training processes start."""
    host: Host | None = None
    """Who serves the store: whom to name when the store doesn't answer."""
    error: str = ""
    """The entries do not fit together: every agent ends with CONFIG_ERROR."""


def start(
    entries: Sequence[Entry], round_number: int, max_process_restarts: int, preflight: Plan | None = None
) -> Start:
    """What this round comes to, given all entries in the order of their node ranks.

    Args:
        preflight: the check that the job asks for, if it does; made where an agent takes part that never passed one.
    """
    procs = [entry.procs for entry in entries]
    if len(set(procs)) > 1:
        return Start(error=f"processes per node differ between the pods: {procs}; set the same number for all")
    culprit = _culprit(entries)
    # A lost peer alone is no reason to leave: its agent has entered this round, and starts it again.
    give_up = culprit is not None and (
        round_number > max_process_restarts
        or (culprit.failure.exit_code in RETRYABLE_ELSEWHERE and not culprit.peer_lost)
    )
    return Start(
        master_addr=entries[0].address,
        master_port=entries[0].port,
        culprit=culprit,
        give_up=give_up,
        host=next((Host(node_rank=n, pod=e.pod, node=e.node) for n, e in enumerate(entries) if e.host), None),
        preflight=None if preflight is None or give_up else _plan(preflight, entries),
    )


def _plan(wanted: Plan, entries: Sequence[Entry]) -> Plan | None:
    """The check of this gang; None when all of its agents have passed one already."""
    if all(entry.checked for entry in entries):
        return None
    host = next((rank for rank, entry in enumerate(entries) if entry.host), 0)
    others = [(rank, entry.address, entry.agent_port) for rank, entry in enumerate(entries) if rank != host]
    return wanted.model_copy(
        update={
            "host_rank": host,
            "host_node": entries[host].node,
            "witnesses": tuple(others[:WITNESSES]),
        }
    )


def _culprit(entries: Sequence[Entry]) -> Culprit | None:
    """The failure that comes before the others; see `LocalFailure.precedence`."""
    failed = [(rank, entry.failure) for rank, entry in enumerate(entries) if entry.failure]
    if not failed:
        return None
    rank, first = min(failed, key=lambda one: (one[1].precedence, one[0]))
    return Culprit(node_rank=rank, pod=entries[rank].pod, failure=first.failure, peer_lost=first.peer_lost)
