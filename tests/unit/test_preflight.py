"""The pure parts of a preflight: who meets whom, and from what was said to the nodes that are to be avoided."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
from deepseek_trainer.agent import settings
from deepseek_trainer.agent.checkers import Checkers
from deepseek_trainer.agent.rounds import Entry, start
from deepseek_trainer.config import ConfigError
from deepseek_trainer.preflight.judge import judge_arrivals, judge_results
from deepseek_trainer.preflight.pairing import MAX_ROUNDS, partner, rounds
from deepseek_trainer.preflight.phases import measured_at_least_s
from deepseek_trainer.preflight.records import Arrival, Pair, Plan, Result, Verdict
from deepseek_trainer.preflight.task import Task
from support.eventually import eventually

# pairs


@pytest.mark.parametrize("nodes", [*range(2, 14), 64, 65, 1000])
def test_partners_are_mutual_and_new_in_each_round(nodes: int) -> None:
    count = rounds(nodes, 1e6)
    met: set[tuple[int, int]] = set()
    for number in range(count):
        partners = {rank: partner(nodes, rank, number) for rank in range(nodes)}
        alone = [rank for rank, other in partners.items() if other is None]
        assert len(alone) == nodes % 2
        for rank, other in partners.items():
            if other is None:
                continue
            assert partners[other] == rank != other
            if rank < other:
                assert (rank, other) not in met
                met.add((rank, other))
    assert count <= MAX_ROUNDS
    if count == nodes - 1 + nodes % 2:
        assert met == set(itertools.combinations(range(nodes), 2)), "few nodes all meet"


@pytest.mark.parametrize(
    ("nodes", "timeout_s", "count"),
    [(1, 120, 0), (2, 120, 1), (3, 120, 3), (8, 120, 7), (9, 120, 8), (500, 120, 8), (500, 5, 1), (8, 30, 2)],
)
def test_there_are_as_many_rounds_as_there_is_time(nodes: int, timeout_s: float, count: int) -> None:
    assert rounds(nodes, measured_at_least_s(timeout_s)) == count


# judging

FAST = 1000.0


def gang(nodes: int, **changed: Result) -> dict[int, Result]:
    """All pairs of all nodes at full speed; r<rank>= replaces a node's result."""
    results = {
        rank: Result(
            end="done",
            pairs=tuple(Pair(partner=other, mbps=FAST) for other in range(nodes) if other != rank),
            reduce_mbps=FAST,
        )
        for rank in range(nodes)
    }
    return results | {int(name[1:]): result for name, result in changed.items()}


def without(results: dict[int, Result], *ranks: int) -> dict[int, Result]:
    return {rank: result for rank, result in results.items() if rank not in ranks}


def links(results: dict[int, Result], speeds: dict[tuple[int, int], float | None]) -> dict[int, Result]:
    """The same with other speeds between some nodes; None: the pair failed."""

    def pair(rank: int, found: Pair) -> Pair:
        edge = (min(rank, found.partner), max(rank, found.partner))
        if edge not in speeds:
            return found
        mbps = speeds[edge]
        return Pair(partner=found.partner, mbps=mbps, error="" if mbps is not None else "timed out")

    return {
        rank: result.model_copy(update={"pairs": tuple(pair(rank, one) for one in result.pairs)})
        for rank, result in results.items()
    }


def slow(nodes: int, *ranks: int, mbps: float | None = 10.0) -> dict[tuple[int, int], float | None]:
    """All links of these nodes."""
    return {edge: mbps for edge in itertools.combinations(range(nodes), 2) if set(edge) & set(ranks)}


CRASHED = Result(end="crashed", error="its check process died of SIGSEGV")
MUTE = Result(end="mute")
STUCK = Result(end="stuck", error="after 1 pairs")
BROKEN_REDUCE = Result(end="done", reduce_error="connection reset")

CASES = [
    # silence is the strongest evidence: what it does to the others is not held against them
    pytest.param(without(gang(4), 2), None, (2,), "did not answer", id="a node is silent"),
    pytest.param(without(gang(4), 1, 3), None, (1, 3), "did not answer", id="two are silent"),
    pytest.param(without(gang(2), 0), None, (0,), "did not answer", id="one of two is silent"),
    pytest.param(gang(4, r3=MUTE), None, (3,), "stopped answering", id="a process gave no sign of life"),
    pytest.param(without(gang(4, r3=MUTE), 0), None, (0, 3), "answer", id="one silent and one mute"),
    pytest.param(
        without(gang(4, r1=CRASHED), 2), None, (2,), "did not answer", id="a crash beside silence is its victim"
    ),
    pytest.param(
        links(without(gang(4), 2), slow(4, 2, mbps=None)), None, (2,), "did not answer", id="pairs with the silent fail"
    ),
    pytest.param(without(gang(4, r0=BROKEN_REDUCE, r1=STUCK), 3), None, (3,), "did not answer", id="all wait for it"),
    pytest.param(gang(4, r0=STUCK, r1=STUCK, r2=STUCK, r3=MUTE), None, (3,), "stopped", id="all others are stuck"),
    pytest.param(gang(2, r0=MUTE, r1=MUTE), None, (), "every node failed", id="both are mute"),
    # a crash
    pytest.param(gang(4, r1=CRASHED), None, (1,), "SIGSEGV", id="a check crashes"),
    pytest.param(gang(2, r1=CRASHED), None, (1,), "SIGSEGV", id="one of two crashes"),
    pytest.param(gang(4, r1=CRASHED, r2=STUCK), None, (1,), "SIGSEGV", id="a crash leaves another stuck"),
    pytest.param(
        links(gang(4, r1=CRASHED), slow(4, 1, mbps=None)), None, (1,), "SIGSEGV", id="pairs with the crashed fail"
    ),
    pytest.param(gang(3, r0=CRASHED, r1=CRASHED, r2=CRASHED), None, (), "every node failed", id="all crash"),
    pytest.param({0: CRASHED}, None, (0,), "SIGSEGV", id="a single node crashes"),
    # not finished
    pytest.param(gang(4, r2=STUCK), None, (2,), "did not finish in time", id="one does not finish"),
    pytest.param(gang(3, r0=STUCK, r1=STUCK, r2=STUCK), None, (), "every node failed", id="none finishes"),
    # pairs that are too slow
    pytest.param(links(gang(4), slow(4, 2)), 100, (2,), "3 of 3 pairs", id="one is slow with all"),
    pytest.param(links(gang(8), slow(8, 0)), 100, (0,), "7 of 7 pairs", id="node rank 0 is slow with all"),
    pytest.param(links(gang(6), slow(6, 1, 4)), 100, (1, 4), "5 of 5 pairs", id="two are slow with all"),
    pytest.param(links(gang(3), slow(3, 1)), 100, (1,), "2 of 2 pairs", id="one of three"),
    pytest.param(links(gang(2), slow(2, 1)), 100, (0, 1), "10 Mbit/s", id="of two nodes either may be slow"),
    pytest.param(links(gang(4), slow(4, 2)), None, None, "", id="slow, and any speed will do"),
    pytest.param(links(gang(4), slow(4, 2)), 10, None, "", id="slow, and fast enough"),
    pytest.param(links(gang(4), slow(4, 2)), 11, (2,), "11 are wanted", id="slow, and a little too slow"),
    pytest.param(links(gang(4), {(0, 1): 10.0}), 100, (0, 1), "1 of 3 pairs", id="one link of good nodes is slow"),
    pytest.param(links(gang(5), {(0, 1): 10.0, (0, 2): 10.0}), 100, (0,), "2 of 4 pairs", id="slow with half of them"),
    pytest.param(gang(4), 10_000, (), "lower preflight.minBandwidthMbps", id="no pair is fast enough"),
    pytest.param(gang(3), 1001, (), "the best has 1000", id="no pair of three is fast enough"),
    pytest.param(
        links(gang(4), {(0, 1): 10.0, (2, 3): 10.0}), 100, (), "every node failed", id="two links of four nodes"
    ),
    # pairs that fail
    pytest.param(links(gang(4), slow(4, 3, mbps=None)), None, (3,), "failed (timed out)", id="one fails with all"),
    pytest.param(links(gang(4), slow(4, 3, mbps=None)), 100, (3,), "failed (timed out)", id="and there is a minimum"),
    pytest.param(links(gang(2), slow(2, 0, mbps=None)), None, (0, 1), "timed out", id="the only pair fails"),
    pytest.param(links(gang(4), slow(4, *range(4), mbps=None)), None, (), "NetworkPolicy", id="all pairs fail"),
    pytest.param(
        links(gang(5), slow(5, 1, mbps=None) | {(2, 3): 10.0}), 100, (1, 2, 3), "failed", id="one fails, a link is slow"
    ),
    pytest.param(
        gang(3, r2=Result(end="done", pairs=(Pair(partner=0, error="reset"), Pair(partner=1, error="reset")))),
        None,
        (2,),
        "reset",
        id="only one side saw the failure",
    ),
    # the all-reduce
    pytest.param(
        gang(3, r1=BROKEN_REDUCE), None, (), "all 3 nodes failed: connection reset", id="only the whole fails"
    ),
    pytest.param(
        links(gang(3, r0=BROKEN_REDUCE), slow(3, 2)), 100, (2,), "2 of 2 pairs", id="pairs say more than the whole"
    ),
    # good ones
    pytest.param(gang(4), None, None, "", id="all is well"),
    pytest.param(gang(4), 1000, None, "", id="just fast enough"),
    pytest.param(gang(2), 100, None, "", id="two nodes"),
    pytest.param({0: Result(end="done")}, 100, None, "", id="a single node"),
]


@pytest.mark.parametrize(("results", "min_mbps", "bad", "says"), CASES)
def test_the_bad_nodes_are_named_and_only_they(
    results: dict[int, Result], min_mbps: int | None, bad: tuple[int, ...] | None, says: str
) -> None:
    count = max(*results, *(pair.partner for result in results.values() for pair in result.pairs), 0) + 1
    verdict = judge_results([f"node-{rank}" for rank in range(count)], results, min_mbps)
    assert verdict.passed == (bad is None), verdict.message
    assert verdict.ranks == (bad or ()), verdict.message
    assert verdict.nodes == tuple(f"node-{rank}" for rank in bad or ())
    assert says in verdict.message
    assert all(f"node-{rank} (node rank {rank})" in verdict.message for rank in bad or ())


@pytest.mark.parametrize("nodes", [3, 4, 5, 9, 32, 201])
@pytest.mark.parametrize("mbps", [None, 10.0])
def test_any_one_bad_node_is_found_with_the_few_partners_of_a_short_check(nodes: int, mbps: float | None) -> None:
    """Each node meets eight others at most; with two rounds or more the bad one stands out."""
    names = [f"node-{rank}" for rank in range(nodes)]
    count = rounds(nodes, 1e6)
    for bad in {0, 1, nodes // 2, nodes - 1}:
        results = {}
        for rank in range(nodes):
            met = [other for number in range(count) if (other := partner(nodes, rank, number)) is not None]
            pairs = tuple(
                Pair(partner=other, mbps=mbps if bad in (rank, other) else FAST, error="lost" if mbps is None else "")
                for other in met
            )
            results[rank] = Result(end="done", pairs=pairs, reduce_mbps=FAST)
        assert judge_results(names, results, 100).ranks == (bad,)


def test_what_a_good_gang_reaches_is_told() -> None:
    found = judge_results(["a", "b", "c"], links(gang(3), {(0, 1): 400.0}), 100)
    assert found == Verdict(passed=True, min_mbps=400, median_mbps=1000, reduce_mbps=1000)


HERE, GPUS = Arrival(), Arrival(devices=8)


@pytest.mark.parametrize(
    ("nodes", "arrivals", "bad", "says"),
    [
        (3, {0: HERE, 1: HERE, 2: HERE}, None, ""),
        (1, {0: HERE}, None, ""),
        (3, {0: HERE, 2: HERE}, (1,), "did not answer"),
        (3, {1: HERE}, (0, 2), "did not answer"),
        (3, {0: HERE, 1: Arrival(error="CUDA error: no device"), 2: HERE}, (1,), "no device"),
        (3, {0: HERE, 1: Arrival(error="CUDA error")}, (2,), "did not answer"),
        (2, {0: Arrival(error="no module"), 1: Arrival(error="no module")}, (), "every node failed"),
        (1, {0: Arrival(error="CUDA error")}, (0,), "CUDA error"),
        (3, {0: GPUS, 1: GPUS, 2: HERE}, (2,), "has 0 GPUs, others have 8"),
        (2, {0: Arrival(devices=7), 1: GPUS}, (0,), "has 7 GPUs, others have 8"),
        (2, {0: GPUS, 1: GPUS}, None, ""),
    ],
)
def test_who_did_not_arrive_is_named(
    nodes: int, arrivals: dict[int, Arrival], bad: tuple[int, ...] | None, says: str
) -> None:
    found = judge_arrivals([f"node-{rank}" for rank in range(nodes)], arrivals)
    assert (found.passed, found.ranks) == (bad is None, bad or ())
    assert says in found.message


def test_a_node_without_a_known_name_is_told_by_its_rank() -> None:
    found = judge_arrivals(["", ""], {0: HERE})
    assert (found.ranks, found.nodes, found.message) == ((1,), (), "node rank 1: did not answer")


# when there is a check

PLAN = Plan(timeout_s=60, min_mbps=100)


def entry(rank: int, *, checked: bool, host: bool = False) -> Entry:
    return Entry(
        token=f"t{rank}", pod=f"p{rank}", address=f"10.0.0.{rank}", procs=1, port=1, node=f"node-{rank}",
        agent_port=8471, host=host, checked=checked,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("checked", "wanted", "is_checked"),
    [
        ([False, False], PLAN, True),
        ([True, False], PLAN, True),
        ([True, True], PLAN, False),
        ([False, False], None, False),
    ],
)
def test_a_gang_is_checked_when_it_has_a_member_that_never_was(
    checked: list[bool], wanted: Plan | None, is_checked: bool
) -> None:
    entries = [entry(rank, checked=one, host=rank == 1) for rank, one in enumerate(checked)]
    plan = start(entries, 0, 3, wanted).preflight
    assert (plan is not None) == is_checked
    if plan is not None:
        assert (plan.timeout_s, plan.min_mbps, plan.host_rank, plan.host_node) == (60, 100, 1, "node-1")
        assert plan.witnesses == ((0, "10.0.0.0", 8471),)


def test_without_its_variable_there_is_no_check() -> None:
    assert settings.load([], {}).preflight is None
    assert settings.load([], {"DEEPSEEKJOB_PREFLIGHT_MIN_MBPS": "9"}).preflight is None
    found = settings.load(
        [], {"DEEPSEEKJOB_PREFLIGHT_TIMEOUT_S": "90", "DEEPSEEKJOB_PREFLIGHT_MIN_MBPS": "9"}
    ).preflight
    assert found == Plan(timeout_s=90, min_mbps=9)
    assert settings.load([], {"DEEPSEEKJOB_PREFLIGHT_TIMEOUT_S": "90"}).preflight == Plan(timeout_s=90)
    with pytest.raises(ConfigError, match="DEEPSEEKJOB_PREFLIGHT_TIMEOUT_S=4"):
        settings.load([], {"DEEPSEEKJOB_PREFLIGHT_TIMEOUT_S": "4"})


# the agent's end of the check processes


class Played(Checkers):
    """Check processes that say what a test wants, without torch."""

    lines = ""

    def command(self, task: Task) -> list[str]:
        del task
        script = f"import os, sys, time\nsay = lambda text: os.write(1, text.encode() + b'\\n')\n{self.lines}"
        return [sys.executable, "-S", "-c", script]


def played(lines: str, procs: int = 1, missing: str = "") -> Played:
    task = Task(
        node_rank=0, nodes=2, local_rank=0, procs=procs, gpus=False, measured_s=1, master="127.0.0.1", port=1, key="k"
    )  # fmt: skip
    kind = type("Played", (Played,), {"lines": lines})
    made: Played = kind(task, missing=missing, environment={}, mute_s=30)
    return made


READY = """say('{"kind": "ready"}')\n"""
PAIR = """say('{"kind": "pair", "partner": 1, "mbps": 5}')\n"""
DONE = """say('{"kind": "reduce", "mbps": 7}')\n"""


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (READY + PAIR + DONE, Result(end="done", pairs=(Pair(partner=1, mbps=5),), reduce_mbps=7)),
        (READY + PAIR + "os.abort()", Result(end="crashed", error="SIGABRT", pairs=(Pair(partner=1, mbps=5),))),
        (READY + "sys.exit(3)", Result(end="crashed", error="exit status 3")),
        (READY + "sys.exit(0)", Result(end="crashed", error="exit status 0")),
        ("""say('{"kind": "failed", "error": "no GPU"}'); sys.exit(1)""", Result(end="crashed", error="no GPU")),
        ("say('not JSON at all')\n" + READY + DONE, Result(end="done", reduce_mbps=7)),
    ],
)
def test_how_a_check_process_ended_is_told(lines: str, expected: Result) -> None:
    checkers = played(lines)
    try:
        found = eventually(checkers.result, deadline_s=60, what="a result")
        assert found is not None
    finally:
        checkers.close()
    assert expected.error in found.error
    assert found.model_copy(update={"error": ""}) == expected.model_copy(update={"error": ""})


def test_the_worst_of_several_processes_counts() -> None:
    checkers = played(READY + """say('{"kind": "pair", "partner": 1, "mbps": %d}' % (os.getpid()))\n""" + DONE, procs=3)
    try:
        found = eventually(checkers.result, deadline_s=60, what="a result")
        assert found is not None
    finally:
        checkers.close()
    (pair,) = found.pairs
    assert pair.mbps == min(checker.process.pid for checker in checkers.checkers)


def test_a_process_that_died_is_told_of_even_if_another_holds_its_output() -> None:
    checkers = played(READY + "if os.fork(): os.kill(os.getpid(), 9)\ntime.sleep(600)")
    try:
        found = eventually(checkers.result, deadline_s=60, what="a result")
        assert found is not None
        (checker,) = checkers.checkers
        assert checker.reader is not None
        assert checker.reader.is_alive(), "the fork has its standard output"
    finally:
        checkers.close()
    assert found == Result(end="crashed", error="its check process died of SIGKILL")


def test_a_node_that_can_t_be_checked_says_so_and_starts_nothing() -> None:
    checkers = played(READY, missing="has 0 GPUs for 8 processes")
    assert checkers.arrival() == Arrival(error="has 0 GPUs for 8 processes")
    assert checkers.checkers == []
    checkers.close()


def test_a_process_that_hangs_is_ended() -> None:
    checkers = played(READY + "time.sleep(600)")
    try:
        eventually(checkers.arrival, deadline_s=60, what="ready")
        assert checkers.result() is None
        assert checkers.unfinished().end == "stuck"
    finally:
        checkers.close()
    (checker,) = checkers.checkers
    assert checker.process.returncode == -9


def test_the_module_is_importable_without_torch() -> None:
    code = "import deepseek_trainer.preflight.judge, deepseek_trainer.preflight.task, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
