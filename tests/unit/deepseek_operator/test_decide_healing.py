"""Hangs that the agents healed among themselves: counted once, charged, and left behind when they come again."""

from __future__ import annotations

from typing import Any

import pytest
from deepseek_operator.decide.report import HANGS_MAX, parse_report
from deepseek_operator.decide.types import SettledHang
from support.laws import Watcher, comes_to_rest, crash_everywhere, ends, tick
from support.make import make_manifest
from support.world import World


def trains(**recovery: Any) -> World:
    world = World(make_manifest(spec={"recovery": recovery}))
    for _ in range(5):
        world.tick()
    assert world.status.stepped_at is not None
    return world


def test_a_healed_hang_is_on_record_and_costs_no_attempt() -> None:
    world = trains()
    watcher = Watcher(world)
    world.heal(1)
    for _ in range(3):
        tick(world, watcher)
    status = world.status
    assert (status.generation, status.attempt, status.total_restarts) == (1, 1, 1)
    assert (status.restarts.hang, status.restarts.healed, status.incarnations) == (1, 1, {})
    [failure] = status.failures
    assert (failure.cause, failure.reason, failure.round, failure.rank) == ("Hang", "RankFrozen", 0, 1)
    assert (failure.pod, failure.node, failure.slot) == ("demo-worker-1-0", "node-1", 1)
    assert "no step of rank 1 for 61 s after step" in failure.message
    assert "stacks are in /c/hangs" in failure.message
    assert [event.reason for event in world.events].count("Hang") == 1
    assert ends(world, watcher).status.state == "Succeeded"


@pytest.mark.parametrize(("slot", "reason", "word"), [(2, "behind", "RankBehind"), (None, None, "NoStep")])
def test_who_is_behind_is_named_and_nobody_where_nobody_stands_out(
    slot: int | None, reason: str | None, word: str
) -> None:
    world = trains()
    world.heal(slot, reason)
    world.tick()
    [failure] = world.status.failures
    assert (failure.reason, failure.node) == (word, None if slot is None else f"node-{slot}")


def test_a_pod_that_is_no_member_is_nobody() -> None:
    world = trains()
    world.healed.append(SettledHang(1, 0, "frozen", 7, "somebody-elses-pod", 5, 61.0))
    world.tick()
    [failure] = world.status.failures
    assert (failure.pod, failure.node, failure.rank) == ("demo-worker-0-0", None, None)


def test_after_a_second_hang_on_a_node_the_job_leaves_it() -> None:
    world = trains()
    watcher = Watcher(world)
    world.heal(1)
    tick(world, watcher)
    world.heal(1)
    tick(world, watcher)
    status = world.status
    assert (status.generation, status.incarnations, status.reason) == (2, {"1": 1}, "Hang")
    assert (status.restarts.hang, status.restarts.healed) == (2, 1)
    assert [entry.node for entry in status.excluded_nodes] == ["node-1"]
    world.run(lambda w: w.pods.get("demo-worker-1-1") is not None and w.pods["demo-worker-1-1"].node is not None)
    assert world.pods["demo-worker-1-1"].node == "spare-1"
    assert ends(world, watcher).status.state == "Succeeded"


def test_hangs_on_two_nodes_exclude_none() -> None:
    world = trains()
    world.heal(1)
    world.heal(2)
    world.tick()
    assert (world.status.generation, world.status.restarts.healed, world.status.excluded_nodes) == (1, 2, [])


def test_the_budget_of_hangs_ends_the_job() -> None:
    world = trains(budgets={"hang": 1}, nodeExclusion={"failures": 9})
    watcher = Watcher(world)
    world.heal(1)
    tick(world, watcher)
    world.heal(2)
    tick(world, watcher)
    assert (world.status.state, world.status.reason, world.status.restarts.hang) == (
        "Failed",
        "RestartLimitExceeded",
        1,
    )


@pytest.mark.parametrize(
    "hang", [SettledHang(1, 0, "silent", None, "demo-worker-1-0"), SettledHang(1, 3, "frozen", 1, "demo-worker-1-0")]
)
def test_what_was_not_healed_in_place_is_not_counted_here(hang: SettledHang) -> None:
    world = trains(maxProcessRestarts=3)
    world.healed.append(hang)
    world.tick()
    assert (world.status.restarts.hang, world.status.failures) == (0, [])
    assert world.status.settled_hang is not None


def test_a_report_of_the_future_counts_when_its_time_has_come() -> None:
    world = trains()
    world.healed.append(SettledHang(2, 0, "frozen", 1, "demo-worker-1-0"))
    world.tick()
    assert (world.status.restarts.hang, world.status.settled_hang) == (0, None)


@pytest.mark.parametrize("count", [1, 2])
def test_a_stop_between_any_two_writes_is_harmless(count: int) -> None:
    world = trains()
    for _ in range(count):
        world.heal(1)
    crash_everywhere(world)
    comes_to_rest(world)


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        ('"text"', ()),
        ("[1, null, [], {}]", ()),
        ('[{"generation": 0, "round": 1}, {"generation": 1}, {"generation": 1, "round": -1}]', ()),
        ('[{"generation": 2, "round": 0}, {"generation": 1, "round": 4}]', (SettledHang(1, 4), SettledHang(2, 0))),
        ('[{"generation": 1, "round": 0}, {"generation": 1, "round": 0, "rank": 3}]', (SettledHang(1, 0, rank=3),)),
        (
            '[{"generation": 1, "round": 0, "reason": "bored", "rank": "x", "pod": "\\u001b[31mp", "seconds": NaN, "step": 1e3}]',
            (SettledHang(1, 0, pod="[31mp"),),
        ),
    ],
)
def test_what_agents_tell_of_hangs_is_untrusted(wire: str, expected: tuple[SettledHang, ...]) -> None:
    report = parse_report('{"generation": 1, "hangs": ' + wire + "}")
    assert report is not None
    assert report.hangs == expected


def test_a_flood_of_hangs_is_cut() -> None:
    entries = ", ".join(f'{{"generation": 1, "round": {number}}}' for number in range(100))
    report = parse_report('{"generation": 1, "hangs": [' + entries + "]}")
    assert report is not None
    assert [hang.round for hang in report.hangs] == list(range(100 - HANGS_MAX, 100))
