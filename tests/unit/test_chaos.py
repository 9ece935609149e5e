"""Which faults are drawn when, and how a soak injects and undoes them: in a world without time or processes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from support.chaos import KINDS, Fault, Kind, PodView, View, draw
from support.soak import PATIENCE_S, Soak, table

PODS = (PodView("a", "node-0"), PodView("b", "node-1", ranks=2))
TRAINS = View("Running", 7, PODS, workers=2, least=1, most=3, nodes=("node-0", "node-1"))
EVERY = set(KINDS)
HANG_S = 25.0
PLACED = {"kill_process", "kill_pod", "delete_pod", "freeze_process", "freeze_pod", "hang_process"}


def drawn(view: View, seeds: int = 300) -> Counter[str]:
    faults = [draw(Random(seed), view) for seed in range(seeds)]
    return Counter(fault.kind for fault in faults if fault)


@pytest.mark.parametrize(
    ("view", "kinds"),
    [
        (TRAINS, EVERY),
        (replace(TRAINS, state="Pending"), set()),
        (replace(TRAINS, state="Restarting"), set()),
        (replace(TRAINS, pods=()), set()),
        (replace(TRAINS, least=2, most=2), EVERY - {"scale"}),
        (replace(TRAINS, nodes=("node-0",)), EVERY - {"kill_node"}),
        (replace(TRAINS, nodes=("node-2", "node-3")), EVERY - {"kill_node"}),
        (replace(TRAINS, under_way=frozenset({"suspend"})), set()),
        (
            replace(TRAINS, under_way=frozenset({"operator_away"})),
            EVERY - {"operator_restart", "operator_away", "kill_node", "suspend", "hang_process"},
        ),
        (replace(TRAINS, under_way=frozenset({"kill_node"})), EVERY - {"operator_away", "kill_node", "suspend"}),
        (
            replace(TRAINS, under_way=frozenset({"freeze_pod"})),
            EVERY - {"freeze_process", "freeze_pod", "hang_process", "suspend"},
        ),
    ],
)
def test_only_what_makes_sense_is_drawn(view: View, kinds: set[str]) -> None:
    assert set(drawn(view)) == kinds


def test_a_seed_says_it_all() -> None:
    first, again = ([draw(random, TRAINS) for _ in range(50)] for random in (Random(3), Random(3)))
    assert first == again
    assert first != [draw(Random(4), TRAINS) for _ in range(50)]


def test_what_is_drawn_exists() -> None:
    for seed in range(300):
        fault = draw(Random(seed), TRAINS)
        assert fault is not None
        if fault.kind in PLACED:
            pod = next(pod for pod in PODS if pod.name == fault.what["pod"])
            assert fault.what.get("rank", 0) < pod.ranks
        if fault.kind == "scale":
            assert fault.what["workers"] in (1, 3)
        if fault.kind == "kill_node":
            assert fault.what["node"] in TRAINS.nodes


def test_weights_count() -> None:
    found = drawn(TRAINS, seeds=2000)
    assert found["kill_process"] > found["delete_pod"] > found["suspend"] > 0


def test_only_the_kinds_that_are_asked_for() -> None:
    assert {fault.kind for seed in range(50) if (fault := draw(Random(seed), TRAINS, only=["scale"]))} == {"scale"}


@dataclass
class Imagined:
    """A job that makes a step each time somebody waits, unless something is in its way; hangs are found. Keeps every call."""

    length: int = 40
    now: float = 0.0
    step: int = 0
    job: int = 0
    stopped: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    stuck_after: str = ""
    frozen_at: float = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now > self.frozen_at + HANG_S:
            self.stopped -= {"freeze a", "freeze b"}
        if not self.stopped:
            self.step = min(self.length, self.step + 1)

    def view(self) -> View:
        return replace(TRAINS, step=self.step, state="Succeeded" if self.step >= self.length else "Running")

    def describe(self) -> str:
        return "the state of the world"

    def start_job(self, number: int) -> None:
        self.job, self.step = number, 0
        self.calls.append(f"start {number}")

    def finish_job(self) -> None:
        assert not self.stopped, "something was not undone"
        self.calls.append(f"finish {self.job}")

    def _done(self, call: str) -> None:
        self.calls.append(call)
        if call.split(maxsplit=1)[0] == self.stuck_after:
            self.stopped.add("for ever")

    def kill_process(self, pod: str, rank: int) -> None:
        self._done(f"kill_process {pod} {rank}")

    def kill_pod(self, pod: str) -> None:
        self._done(f"kill_pod {pod}")

    def delete_pod(self, pod: str) -> None:
        self._done(f"delete_pod {pod}")

    def freeze(self, pod: str, rank: int | None) -> None:
        self.frozen_at = self.now
        self.stopped.add(f"freeze {pod}")
        self._done(f"freeze {pod} {rank}")

    def thaw(self, pod: str) -> None:
        self.stopped.discard(f"freeze {pod}")
        self._done(f"thaw {pod}")

    def scale(self, workers: int) -> None:
        self._done(f"scale {workers}")

    def suspend(self, wanted: bool) -> None:
        (self.stopped.add if wanted else self.stopped.discard)("suspend")
        self._done(f"suspend {wanted}")

    def operator_kill(self) -> None:
        self._done("operator_kill")

    def operator_start(self) -> None:
        self._done("operator_start")

    def node_kill(self, node: str) -> None:
        self._done(f"node_kill {node}")

    def node_start(self, node: str) -> None:
        self._done(f"node_start {node}")


def soak(target: Imagined, *only: str, seed: int = 1) -> Soak:
    return Soak(target, Random(seed), lambda: target.now, target.sleep, say=lambda line: None, only=only)


def test_job_after_job_until_there_were_enough_faults() -> None:
    target = Imagined()
    run = soak(target)
    outcomes = run.run(faults=60, seconds=1e9)
    assert len(outcomes) == 60
    assert target.job > 1
    assert [call for call in target.calls if call.startswith(("start", "finish"))] == [
        f"{verb} {number}" for number in range(1, target.job + 1) for verb in ("start", "finish")
    ]
    assert len(table(outcomes).splitlines()) == 60 + 2 + len({each.fault.kind for each in outcomes})


@pytest.mark.parametrize(
    ("kind", "does", "undoes"),
    [
        ("kill_process", "kill_process", ""),
        ("kill_pod", "kill_pod", ""),
        ("delete_pod", "delete_pod", ""),
        ("freeze_process", "freeze", "thaw"),
        ("freeze_pod", "freeze", "thaw"),
        ("hang_process", "freeze", ""),
        ("scale", "scale", ""),
        ("operator_restart", "operator_kill", "operator_start"),
        ("operator_away", "operator_kill", "operator_start"),
        ("kill_node", "node_kill", "node_start"),
        ("suspend", "suspend", "suspend"),
    ],
)
def test_each_fault_is_done_and_undone(kind: str, does: str, undoes: str) -> None:
    target = Imagined(length=500)
    outcomes = soak(target, kind).run(faults=3, seconds=1e9)
    assert [each.fault.kind for each in outcomes] == [kind] * 3
    words = [call.split()[0] for call in target.calls if not call.startswith(("start", "finish"))]
    assert words == ([does, undoes] if undoes else [does]) * 3


def test_every_kind_is_in_that_table() -> None:
    (mark,) = test_each_fault_is_done_and_undone.pytestmark  # type: ignore[attr-defined]
    assert {case[0] for case in mark.args[1]} == EVERY


def test_a_stall_is_the_longest_time_without_a_new_step() -> None:
    outcomes = soak(Imagined(length=500), "freeze_pod").run(faults=4, seconds=1e9)
    for each in outcomes:
        assert each.fault.lasts_s <= each.stall_s < each.fault.lasts_s + 0.5
    harmless = soak(Imagined(length=500), "operator_restart").run(faults=4, seconds=1e9)
    assert all(each.stall_s < 0.5 for each in harmless)


def test_the_time_is_a_limit_too() -> None:
    target = Imagined(length=1000)
    outcomes = soak(target).run(faults=10**6, seconds=30)
    assert target.job == 1
    assert all(each.at_s < 30 for each in outcomes)


def test_a_job_that_is_stuck_is_told_with_the_fault() -> None:
    with pytest.raises(AssertionError, match=r"after kill_pod pod=[ab]\nthe state of the world"):
        soak(Imagined(stuck_after="kill_pod"), "kill_pod").run(faults=5, seconds=1e9)


def test_a_job_that_never_starts_is_told() -> None:
    target = Imagined(stopped={"no room"})
    with pytest.raises(AssertionError, match="no step after 0"):
        soak(target).run(faults=5, seconds=1e9)
    assert PATIENCE_S < target.now < 2 * PATIENCE_S


def test_an_unknown_kind_is_an_error() -> None:
    run = soak(Imagined())
    with pytest.raises(ValueError, match="nobody knows how to do flood"):
        run._inject(Fault("flood"))


def test_own_kinds() -> None:
    flood = Kind(1, lambda view: True, lambda random, view: Fault("flood", {"metres": random.randint(1, 3)}, 2.0))
    fault = draw(Random(1), TRAINS, {"flood": flood})
    assert fault is not None
    assert str(fault) == f"flood metres={fault.what['metres']} for 2 s"
