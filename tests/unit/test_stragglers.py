"""Who is named as slower than the others, from figures alone; and what the agents make of their pulses."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from pathlib import Path
from typing import cast

import pytest
from deepseek_trainer.agent.log import EventLog
from deepseek_trainer.agent.metrics import exposition
from deepseek_trainer.agent.pace import NODES_A_SECOND, NODES_A_TURN, Pace
from deepseek_trainer.agent.rounds import Entry
from deepseek_trainer.agent.session import Session
from deepseek_trainer.agent.settings import STRAGGLER_WINDOW_S, load
from deepseek_trainer.agent.status import Status
from deepseek_trainer.agent.steptimes import LEAST_STEPS, StepTimes
from deepseek_trainer.agent.stragglers import WINDOWS, Figure, Judge
from deepseek_trainer.contract import Env, Membership, Progress
from deepseek_trainer.pulse import Pulse, PulseWriter

STEP_S = 1.0


def windows(judge: Judge, *busy_s: float, times: int = 1) -> list[int]:
    """The ranks that are named after so many windows with this own work of each rank."""
    figures = {rank: Figure(seconds, STEP_S) for rank, seconds in enumerate(busy_s)}
    for _ in range(times):
        judge.judge(figures, set(figures))
    return [slow.rank for slow in judge.named]


@pytest.mark.parametrize(
    ("busy_s", "named"),
    [
        pytest.param([0.5, 0.5, 0.5, 0.9], [3], id="one of four"),
        pytest.param([0.9, 0.5], [0], id="one of two"),
        pytest.param([0.9], [], id="alone"),
        pytest.param([0.95, 0.95, 0.95, 0.95], [], id="all are equally slow"),
        pytest.param([0.5, 0.52, 0.55, 0.58], [], id="less than a tenth of a step"),
        pytest.param([0.2, 0.4, 0.5, 0.6, 0.7, 0.8], [], id="they differ by as much anyway"),
        pytest.param([0.5] * 8 + [0.7] * 8, list(range(8, 16)), id="one of two nodes"),
        pytest.param([0.5, 0.9, 0.9], [], id="more than half can't be slower than the others"),
        pytest.param([-0.2, -0.2, 0.1], [2], id="collectives that overlap"),
        pytest.param([0.5] * 999 + [0.61], [999], id="one of a thousand"),
    ],
)
def test_who_is_slow(busy_s: list[float], named: list[int]) -> None:
    judge = Judge()
    assert windows(judge, *busy_s, times=WINDOWS - 1) == [], "too early"
    assert windows(judge, *busy_s) == named
    assert windows(judge, *busy_s, times=10) == named


def test_short_steps_are_not_judged_by_milliseconds() -> None:
    judge = Judge()
    tiny = {0: Figure(0.001, 0.004), 1: Figure(0.003, 0.004)}
    for _ in range(5):
        judge.judge(tiny, set(tiny))
    assert judge.named == ()


def test_it_takes_windows_running_to_be_named_and_to_be_cleared() -> None:
    judge = Judge()
    slow, near, fast = (0.5, 0.5, 0.8), (0.5, 0.5, 0.57), (0.5, 0.5, 0.51)
    assert windows(judge, *slow, times=2) == []
    assert windows(judge, *fast) == []
    assert windows(judge, *slow, times=2) == [], "not running"
    assert windows(judge, *slow) == [2]
    assert windows(judge, *near, times=20) == [2], "neither slow nor calm: it stays as it is"
    assert windows(judge, *fast, times=2) == [2]
    assert windows(judge, *slow) == [2]
    assert windows(judge, *fast, times=2) == [2], "not running"
    assert windows(judge, *fast) == []
    assert windows(judge, *near, times=20) == []


def test_only_a_new_window_of_a_rank_counts() -> None:
    judge, figures = Judge(), {0: Figure(0.5, 1.0), 1: Figure(0.9, 1.0)}
    for _ in range(10):
        judge.judge(figures, {0})
    assert not judge.named
    judge.judge({}, set())
    for _ in range(WINDOWS):
        judge.judge(figures, {1})
    assert [slow.rank for slow in judge.named] == [1]


def test_what_is_said_changes_only_with_much() -> None:
    judge = Judge()
    windows(judge, 0.5, 0.9, times=WINDOWS)
    said = judge.named[0]
    assert (said.busy_s, said.median_s, said.step_s) == (0.9, 0.5, 1.0)
    windows(judge, 0.5, 0.95)
    windows(judge, 0.52, 0.85)
    assert judge.named == (said,)
    windows(judge, 0.4, 0.95)
    assert judge.named[0].busy_s == 0.95


def test_noise_names_nobody() -> None:
    dice = random.Random(7)
    judge = Judge()
    for _ in range(300):
        assert windows(judge, *(dice.lognormvariate(-1.0, 0.3) for _ in range(64))) == []


# --- windows of pulses ---


def test_a_window_is_the_mean_of_the_steps_that_were_measured(tmp_path: Path) -> None:
    files = {4: tmp_path / "a", 5: tmp_path / "b"}
    times = StepTimes(files)
    assert times.look() == {}
    clock = itertools.count().__next__
    writers = {rank: PulseWriter(file, clock=lambda: float(clock())) for rank, file in files.items()}
    assert times.look() == {}, "no step yet"
    for step in range(LEAST_STEPS):
        assert times.window() == {}
        for writer in writers.values():
            with writer.waiting():
                pass
            writer.stepped(step)
        times.look()
        times.look()  # the same steps count once
    assert {rank: pulse.step for rank, pulse in times.look().items()} == {4: LEAST_STEPS - 1, 5: LEAST_STEPS - 1}
    window = times.window()
    assert window.keys() == {4, 5}
    assert all(figure.step_s - figure.busy_s == 1.0 for figure in window.values())
    assert times.window() == {}, "the next window has steps of its own"


def test_ranks_that_measure_nothing_have_a_last_step_and_no_window(tmp_path: Path) -> None:
    times = StepTimes({0: tmp_path / "a"})
    writer = PulseWriter(tmp_path / "a")
    for step in range(10):
        writer.stepped(step)
        times.look()
    assert times.look()[0].step == 9
    assert times.window() == {}


# --- between the agents ---


class Shared:
    """What the agents' sessions have in common: the store, as far as this needs it."""

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        self.said: dict[tuple[str, int], str] = {}
        self.reads: list[int] = []


class Talk:
    """One agent's session."""

    def __init__(self, shared: Shared, node_rank: int) -> None:
        self.shared = shared
        self.membership = Membership(
            generation=1, attempt=1, node_rank=node_rank, nodes=shared.nodes, master="10.0.0.1"
        )

    def say(self, what: str, text: str) -> None:
        self.shared.said[what, self.membership.node_rank] = text

    def said(self, what: str, ranks: list[int]) -> dict[int, str]:
        self.shared.reads += ranks
        return {rank: self.shared.said[what, rank] for rank in ranks if (what, rank) in self.shared.said}

    def entry(self, node_rank: int) -> Entry:
        return Entry(token="t", pod=f"pod-{node_rank}", node=f"node-{node_rank}", address="", procs=2, port=1)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Node:
    """An agent's Pace and the two ranks of its pod."""

    def __init__(self, folder: Path, shared: Shared, node_rank: int, clock: Clock) -> None:
        options = load([], {STRAGGLER_WINDOW_S: "2", Env.PROC_PER_NODE: "2", Env.RUN_DIR: str(folder)})
        self.status = Status(options, clock=clock)
        self.pace = Pace(options, self.status, EventLog(dict), clock)
        self.talk = Talk(shared, node_rank)
        self.clock = clock
        ranks = {node_rank * 2 + local: folder / f"{node_rank}-{local}" for local in range(2)}
        self.pace.begin(ranks)
        self.writers = {rank: PulseWriter(file, clock=clock) for rank, file in ranks.items()}

    def turn(self) -> None:
        self.pace.turn(cast(Session, self.talk))

    def named(self) -> list[tuple[int, str, str, float, float, float]] | None:
        found = self.status.progress().stragglers
        return None if found is None else [tuple(slow.model_dump().values()) for slow in found]


def train(nodes: list[Node], clock: Clock, busy_s: dict[int, float], seconds: int) -> None:
    """Steps of a second, with this own work of the ranks that differ from 0.5 s."""
    begun = clock.now
    for second in range(seconds):
        for node in nodes:
            for rank, writer in node.writers.items():
                clock.now = begun + second + busy_s.get(rank, 0.5)
                with writer.waiting():
                    clock.now = begun + second + 1
                writer.stepped(round(clock.now))
            clock.now = begun + second
        for _ in range(5):
            clock.now += 0.2
            for node in nodes:
                node.turn()


def test_node_rank_0_names_a_slow_rank_with_its_pod(tmp_path: Path) -> None:
    shared, clock = Shared(3), Clock()
    nodes = [Node(tmp_path, shared, node_rank, clock) for node_rank in range(3)]
    assert nodes[0].named() is None
    train(nodes, clock, {}, 8)
    assert nodes[0].named() == []
    train(nodes, clock, {4: 0.75}, 16)
    assert nodes[0].named() == [(4, "pod-2", "node-2", 0.75, 0.5, 1.0)]
    assert [node.named() for node in nodes[1:]] == [None, None]
    train(nodes, clock, {}, 16)
    assert nodes[0].named() == []

    # The processes start anew: nothing is known.
    train(nodes, clock, {4: 0.75}, 16)
    nodes[0].status.joined(nodes[0].talk.membership, 1, tmp_path / "report")
    assert nodes[0].named() is None


def test_a_silent_node_is_not_judged(tmp_path: Path) -> None:
    shared, clock = Shared(3), Clock()
    nodes = [Node(tmp_path, shared, node_rank, clock) for node_rank in range(2)]
    train(nodes, clock, {3: 0.8}, 20)
    assert nodes[0].named() == [(3, "pod-1", "node-1", 0.8, 0.5, 1.0)]


def test_each_node_is_read_once_a_window_and_a_thousand_no_faster_than_fifty_a_second(tmp_path: Path) -> None:
    shared, clock = Shared(1000), Clock()
    node = Node(tmp_path, shared, 0, clock)
    for _ in range(600):
        clock.now += 0.1
        before = len(shared.reads)
        node.turn()
        assert len(shared.reads) - before <= NODES_A_TURN
    reads = Counter(shared.reads)
    assert 0.75 * 60 * NODES_A_SECOND < reads.total() <= 60 * NODES_A_SECOND
    assert set(reads) == set(range(1000))
    assert max(reads.values()) <= 3


def test_metrics_have_the_steps_of_each_rank() -> None:
    pulses = {
        4: Pulse(7, "training", 9, 1.0, 1.0, 0.5, 0.25, 0.125),
        5: Pulse(7, "training", 9, 1.0, 1.0, 0.5, math.nan),
    }
    text = exposition(lambda: Progress(job="j", pod="p"), lambda: pulses)().decode()
    assert 'deepseekjob_rank_step_seconds{job="j",pod="p",rank="5"} 0.5' in text
    assert 'deepseekjob_rank_own_work_seconds{job="j",pod="p",rank="4"} 0.25' in text
    assert 'deepseekjob_rank_own_work_seconds{job="j",pod="p",rank="5"}' not in text
    assert 'deepseekjob_rank_data_wait_seconds{job="j",pod="p",rank="4"} 0.125' in text
    assert 'deepseekjob_rank_data_wait_seconds{job="j",pod="p",rank="5"}' not in text


def test_metrics_have_the_parts_of_a_step_and_the_memory_of_each_rank() -> None:
    blank = Pulse(7, "training", 9, 1.0, 1.0, 0.5, 0.25, 0.125)
    pulses = {4: blank._replace(forward_s=0.5, waited_s=2.0, resident_bytes=4096.0), 5: blank}
    text = exposition(lambda: Progress(job="j", pod="p", grad_norm=1.5, mfu=0.25), lambda: pulses)().decode()
    assert 'deepseekjob_rank_part_seconds{job="j",part="forward",pod="p",rank="4"} 0.5' in text
    assert 'deepseekjob_rank_part_seconds{job="j",part="waiting",pod="p",rank="4"} 2.0' in text
    assert 'deepseekjob_rank_memory_bytes{job="j",kind="resident",pod="p",rank="4"} 4096.0' in text
    assert text.count("deepseekjob_rank_part_seconds{") == 2, "what was not measured has no sample"
    assert text.count("deepseekjob_rank_memory_bytes{") == 1
    assert 'deepseekjob_grad_norm{job="j",pod="p"} 1.5' in text
    assert 'deepseekjob_mfu{job="j",pod="p"} 0.25' in text
    assert "deepseekjob_learning_rate{" not in text
