"""The rendezvous among handlers in threads: rounds, generations, lost and frozen stores, orderly departures."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from deepseek_trainer.agent import settings
from deepseek_trainer.agent.departure import Outcome
from deepseek_trainer.agent.handler import MembershipRendezvous, ProcessRestartsExhausted
from deepseek_trainer.agent.log import EventLog
from deepseek_trainer.agent.membership import MembershipChanged, MembershipFile
from deepseek_trainer.agent.rounds import LocalFailure
from deepseek_trainer.agent.store import StoreLink, StoreLost
from deepseek_trainer.config import ConfigError
from deepseek_trainer.contract import Failure, Silence
from support.eventually import eventually
from support.ports import free_port
from torch.distributed.elastic.rendezvous.api import RendezvousInfo, RendezvousParameters, RendezvousTimeoutError
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

pytestmark = pytest.mark.training


class Stopped(Exception):
    """The test is over."""


class Agent:
    """One handler on a loopback address of its own; its rendezvous runs in a thread."""

    def __init__(
        self, folder: Path, rank: int, stop: threading.Event, file: Path | None = None, **environ: str
    ) -> None:
        self.ip = f"127.1.0.{rank + 1}"
        self.file = file or folder / f"{rank}.json"
        options = environ.pop("options", "").split()
        pod = {"DEEPSEEKJOB_POD_NAME": f"pod-{rank}", "DEEPSEEKJOB_POD_IP": self.ip}
        log = EventLog()
        self.now = 0.0
        self.handler = MembershipRendezvous(
            settings.load(options, pod | environ),
            MembershipFile(self.file, log),
            log,
            run_id="run",
            pause=self.pause,
            clock=self.clock,
            on_silence=lambda silence: self.heard.append(silence.told()),
        )
        self.heard: list[Silence] = []
        self._stop = stop
        self.waits = 0

    def pause(self, seconds: float) -> None:
        """A clock of its own that moves with each wait: deadlines pass quickly and the same on any machine."""
        self.now += seconds
        self.waits += 1
        if self._stop.wait(0.005):
            raise Stopped

    def clock(self) -> float:
        return self.now

    def next_round(self) -> Future[RendezvousInfo]:
        result: Future[RendezvousInfo] = Future()

        def run() -> None:
            try:
                result.set_result(self.handler.next_rendezvous())
            except Exception as error:
                result.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return result

    def must_restart(self) -> bool:
        self.now += 1.25  # not a second, which sums of pauses may miss by a rounding error
        return self.handler.num_nodes_waiting() > 0

    def fail(self, at: float, exit_code: int = 1) -> None:
        evidence = Failure(exit_code=exit_code, message=f"{self.ip} broke")
        self.handler.local_failure = LocalFailure(time=at, failure=evidence)


class Agents:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.stop = threading.Event()
        self.all: list[Agent] = []

    def make(self, count: int, first: int = 0, **environ: str) -> list[Agent]:
        made = [Agent(self.folder, first + rank, self.stop, None, **environ) for rank in range(count)]
        self.all += made
        return made

    def announce(self, generation: int, *members: Agent, host: int = 0, master: str = "") -> None:
        for rank, agent in enumerate(members):
            fields = {"generation": generation, "attempt": 1, "nodeRank": rank, "nodes": len(members)}
            where = {"master": master or members[host].ip, "port": self.port, "host": rank == host}
            agent.file.write_text(json.dumps(fields | where))


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Agents]:
    made = Agents(tmp_path)
    yield made
    made.stop.set()
    for agent in made.all:
        agent.handler.shutdown()


def together(members: list[Agent]) -> list[RendezvousInfo]:
    return [begun.result(30) for begun in [agent.next_round() for agent in members]]


def ranks(infos: list[RendezvousInfo]) -> list[tuple[int, int]]:
    return [(info.rank, info.world_size) for info in infos]


def rounds(members: list[Agent]) -> list[tuple[int, int]]:
    joined = [agent.handler.joined for agent in members]
    return [(one.membership.generation, one.round) for one in joined if one]


def listens(ip: str, port: int) -> bool:
    try:
        socket.create_connection((ip, port), timeout=1).close()
    except OSError:
        return False
    return True


def soon(probe: Callable[[], Any]) -> Any:
    return eventually(probe, deadline_s=30, interval_s=0.01)


def test_torch_finds_the_handler_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEKJOB_POD_IP", "127.1.0.1")
    parameters = RendezvousParameters("deepseekjob", "", "run-7", min_nodes=1, max_nodes=4)
    handler = get_rendezvous_handler(parameters)
    assert isinstance(handler, MembershipRendezvous)
    assert (handler.get_backend(), handler.get_run_id()) == ("deepseekjob", "run-7")


def test_ranks_are_the_memberships_and_the_master_is_node_rank_0(agents: Agents) -> None:
    members = agents.make(3)
    agents.announce(1, *members, host=2)
    infos = together(members)
    assert ranks(infos) == [(0, 3), (1, 3), (2, 3)]
    masters = {(info.bootstrap_store_info.master_addr, info.bootstrap_store_info.master_port) for info in infos}  # type: ignore[union-attr]
    assert [address for address, _ in masters] == [members[0].ip]
    assert not any(agent.must_restart() for agent in members)


def test_members_may_come_late_and_the_file_later_still(agents: Agents) -> None:
    members = agents.make(2)
    early = members[0].next_round()
    soon(lambda: members[0].waits > 3)
    members[1].file.write_text("")
    late = members[1].next_round()
    agents.announce(1, *members)
    assert ranks([early.result(30), late.result(30)]) == [(0, 2), (1, 2)]


def test_a_crash_makes_the_next_round_among_the_same_members(agents: Agents) -> None:
    members = agents.make(3)
    agents.announce(1, *members)
    together(members)
    members[1].fail(at=5.0)
    failed = members[1].next_round()
    for other in (members[0], members[2]):
        soon(other.must_restart)
    others = [members[0].next_round(), members[2].next_round()]
    assert ranks([others[0].result(30), failed.result(30), others[1].result(30)]) == [(0, 3), (1, 3), (2, 3)]
    assert rounds(members) == [(1, 1)] * 3
    culprits = [agent.handler.joined.culprit for agent in members if agent.handler.joined]
    assert [culprit and culprit.pod for culprit in culprits] == ["pod-1"] * 3


def test_the_culprit_gives_up_after_its_restarts_and_the_others_wait_for_a_new_generation(agents: Agents) -> None:
    members = agents.make(2, DEEPSEEKJOB_MAX_PROCESS_RESTARTS="1")
    agents.announce(1, *members)
    together(members)
    for _ in range(1):
        members[0].fail(at=2.0)
        members[1].fail(at=1.0)
        together(members)
    members[0].fail(at=2.0)
    members[1].fail(at=1.0)
    victim, culprit = [agent.next_round() for agent in members]
    with pytest.raises(ProcessRestartsExhausted, match=r"127\.1\.0\.2 broke"):
        culprit.result(30)
    assert not victim.done()
    replacement = agents.make(1, first=5)[0]
    agents.announce(2, members[0], replacement)
    joined = replacement.next_round()
    assert ranks([victim.result(30), joined.result(30)]) == [(0, 2), (1, 2)]


def test_a_failure_while_a_peers_pod_is_gone_costs_no_restart(agents: Agents) -> None:
    members = agents.make(2, DEEPSEEKJOB_MAX_PROCESS_RESTARTS="0")
    agents.announce(1, *members)
    together(members)
    members[0].fail(at=1.0)  # because the peer vanished
    survivor = members[0].next_round()
    soon(lambda: members[0].waits > 20)
    assert not survivor.done()
    agents.announce(2, members[0])
    assert ranks([survivor.result(30)]) == [(0, 1)]


def test_one_process_hosts_generation_after_generation_on_one_port(agents: Agents) -> None:
    members = agents.make(2)
    for generation in (1, 2, 3):
        agents.announce(generation, *members, host=generation % 2)
        assert ranks(together(members)) == [(0, 2), (1, 2)]
    assert rounds(members) == [(3, 0)] * 2


def test_a_lost_store_stops_nobody_until_the_file_changes(agents: Agents) -> None:
    members = agents.make(3)
    agents.announce(1, *members, host=2)
    together(members)
    members[2].handler.shutdown()
    soon(lambda: not listens(members[2].ip, agents.port))
    survivors = members[:2]
    for _ in range(3):
        assert not any(agent.must_restart() for agent in survivors)
    survivors[0].fail(at=1.0)
    waiting = survivors[0].next_round()
    soon(lambda: survivors[0].waits > 10)
    agents.announce(2, *survivors)
    soon(survivors[1].must_restart)
    joined = survivors[1].next_round()
    assert ranks([waiting.result(30), joined.result(30)]) == [(0, 2), (1, 2)]


def test_an_agent_that_is_started_again_in_its_pod_ends_the_round(agents: Agents) -> None:
    members = agents.make(2)
    agents.announce(1, *members)
    together(members)
    again = Agent(agents.folder, 1, agents.stop, members[1].file)
    agents.all.append(again)
    joined = again.next_round()
    soon(members[0].must_restart)
    assert ranks([members[0].next_round().result(30), joined.result(30)]) == [(0, 2), (1, 2)]
    assert rounds([members[0], again]) == [(1, 1)] * 2


def test_a_pod_whose_annotation_is_removed_stops_and_waits(agents: Agents) -> None:
    members = agents.make(2)
    agents.announce(1, *members)
    together(members)
    members[1].file.write_text("")
    assert members[1].must_restart()
    waiting = members[1].next_round()
    agents.announce(2, members[0])
    assert ranks([members[0].next_round().result(30)]) == [(0, 1)]
    assert not waiting.done()


def test_a_master_that_can_not_be_found_is_named_at_the_deadline(agents: Agents) -> None:
    member = agents.make(1, options="--rendezvous-timeout-s 2")[0]
    fields = {"generation": 1, "attempt": 1, "nodeRank": 1, "nodes": 2, "master": "nobody.invalid", "port": agents.port}
    member.file.write_text(json.dumps(fields))
    with pytest.raises(RendezvousTimeoutError, match=r"waited 2 s for the store at nobody\.invalid"):
        member.next_round().result(60)


def test_missing_node_ranks_are_named_at_the_deadline(agents: Agents) -> None:
    members = agents.make(3)
    agents.announce(1, *members)
    begun = members[0].next_round()
    soon(lambda: members[0].heard)  # it has entered the round, and looks who else has

    def is_over() -> bool:
        members[0].now += 2000
        return begun.done()

    soon(is_over)
    with pytest.raises(RendezvousTimeoutError, match=r"node ranks \[1, 2\] of 3 in round 0"):
        begun.result()


def test_a_pod_in_no_generation_says_so_at_the_deadline(agents: Agents) -> None:
    member = agents.make(1, options="--rendezvous-timeout-s 2")[0]
    with pytest.raises(RendezvousTimeoutError, match="a generation with pod pod-0 in it"):
        member.next_round().result(60)


def test_pods_that_do_not_fit_together_all_end(agents: Agents) -> None:
    members = agents.make(1) + agents.make(1, first=1, DEEPSEEKJOB_PROC_PER_NODE="2")
    agents.announce(1, *members)
    for begun in [agent.next_round() for agent in members]:
        with pytest.raises(ConfigError, match="processes per node differ"):
            begun.result(30)


def test_all_leave_when_all_are_done_and_the_host_leaves_last(agents: Agents) -> None:
    members = agents.make(3)
    agents.announce(1, *members, host=1)
    together(members)
    departures = [agent.handler.departure() for agent in members]
    assert [departures[i].outcome() for i in (0, 1)] == [Outcome.WAIT] * 2
    departures[2].outcome()
    assert departures[1].outcome() == Outcome.WAIT
    assert [departures[i].outcome() for i in (0, 2)] == [Outcome.LEAVE] * 2
    assert departures[1].outcome() == Outcome.LEAVE


def test_a_node_that_is_done_goes_back_when_a_peer_needs_another_round(agents: Agents) -> None:
    members = agents.make(2)
    agents.announce(1, *members)
    together(members)
    departure = members[0].handler.departure()
    assert departure.outcome() == Outcome.WAIT
    failed = members[1].next_round()
    soon(lambda: departure.outcome() == Outcome.REJOIN)
    assert ranks([members[0].next_round().result(30), failed.result(30)]) == [(0, 2), (1, 2)]


def test_a_node_that_is_done_leaves_when_its_peers_are_gone(agents: Agents) -> None:
    members = agents.make(2)
    agents.announce(1, *members)
    together(members)
    departure = members[0].handler.departure()
    for _ in range(25):
        members[1].must_restart()  # beats
        members[0].now += 1
        assert departure.outcome() == Outcome.WAIT
    members[0].now += 40
    soon(lambda: departure.outcome() == Outcome.LEAVE)


def test_a_node_that_is_done_leaves_when_the_store_is_gone(agents: Agents) -> None:
    members = agents.make(2)
    agents.announce(1, *members, host=1)
    together(members)
    departure = members[0].handler.departure()
    assert departure.outcome() == Outcome.WAIT
    members[1].handler.shutdown()
    soon(lambda: not listens(members[1].ip, agents.port))
    assert departure.outcome() == Outcome.WAIT
    members[0].now += 40
    soon(lambda: departure.outcome() == Outcome.LEAVE)


def test_a_connection_that_never_opens_blocks_nobody() -> None:
    never = threading.Event()
    connecting = StoreLink(lambda: never.wait(60), call_timeout_s=0.1)  # type: ignore[arg-type,return-value]
    assert not connecting.is_open
    with pytest.raises(StoreLost, match="not connected"):
        connecting.check(["x"])
    never.set()


class Frozen:
    """A store whose host does not answer."""

    def __init__(self, never: threading.Event) -> None:
        self._never = never

    def check(self, keys: list[str]) -> bool:
        return self._never.wait(60)


def test_a_call_that_is_not_answered_gives_the_connection_up() -> None:
    never = threading.Event()
    link = StoreLink(lambda: Frozen(never), call_timeout_s=0.1)  # type: ignore[arg-type,return-value]
    soon(lambda: link.is_open)
    with pytest.raises(StoreLost, match=r"no answer within 0\.1 s"):
        link.check(["x"])
    assert not link.is_open
    never.set()


def test_a_wait_for_an_answer_ends_when_the_membership_changes() -> None:
    never = threading.Event()

    def changed() -> None:
        raise MembershipChanged

    link = StoreLink(lambda: Frozen(never), idle=changed, call_timeout_s=60)  # type: ignore[arg-type,return-value]
    soon(lambda: link.is_open)
    with pytest.raises(MembershipChanged):
        link.check(["x"])
    assert link.is_open
    never.set()


# silence


def test_node_rank_0_hears_who_has_fallen_silent(agents: Agents) -> None:
    first, second, third = agents.make(3)
    agents.announce(1, first, second, third)
    together([first, second, third])
    for _ in range(12):
        assert not first.must_restart()
        assert not second.must_restart()
    assert first.heard[0] == Silence(generation=1)
    assert first.heard[-1] == Silence(generation=1, nodes=(2,))
    assert second.heard == [], "one of them watches for all"
    third.handler.farewell()
    assert not first.must_restart()
    assert first.heard[-1] == Silence(generation=1), "who leaves in good order says so"


def test_node_rank_0_says_who_does_not_come_to_the_next_round(agents: Agents) -> None:
    first, second = agents.make(2)
    agents.announce(1, first, second)
    together([first, second])
    first.fail(1.0)
    waiting = first.next_round()
    eventually(lambda: Silence(generation=1, nodes=(1,)) in first.heard, deadline_s=30, what="node rank 1 is missed")
    second.next_round().result(30)
    waiting.result(30)


def test_node_rank_0_says_that_the_stores_host_is_gone(agents: Agents) -> None:
    first, second = agents.make(2)
    agents.announce(1, first, second, host=1)
    together([first, second])
    second.handler.shutdown()
    eventually(
        lambda: not first.must_restart() and Silence(generation=1, store=True) in first.heard,
        deadline_s=30,
        what="the host of the store is missed",
        describe=lambda: str(first.heard[-3:]),
    )
