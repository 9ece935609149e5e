"""Node exclusion: which failures speak against a node, for how long, and what pods and members it touches."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from deepseek_operator.api.conditions import parse_time, rfc3339
from deepseek_operator.api.names import Cause
from deepseek_operator.api.v1alpha1 import Exclusion, FailureStatus, Status
from deepseek_operator.decide.exclusion import excluding, exclusion
from deepseek_operator.decide.gang import Member
from deepseek_operator.decide.losses import Loss
from deepseek_operator.decide.turn import Turn
from deepseek_operator.render import away_from
from support.laws import Watcher, comes_to_rest, crash_everywhere, ends
from support.make import later, make_job, make_last_words, make_manifest, make_pod, observe
from support.world import World

NOW_S = 10_000.0


def failure(
    attempt: int, node: str | None, cause: Cause = Cause.ACCELERATOR, *, age_s: float = 60, reason: str = "X"
) -> FailureStatus:
    when = rfc3339(later(NOW_S - age_s))
    return FailureStatus(
        time=when, pod=f"p-{node}", node=node, slot=0, attempt=attempt, cause=cause.value, reason=reason
    )


def judged(
    *failures: FailureStatus, before: list[Exclusion] | None = None, losses: list[Loss] | None = None, **rule: int
) -> Turn:
    status = Status(generation=3, attempt=3, failures=list(failures), excluded_nodes=before or [])
    job = make_job(status, replicas=2, spec={"recovery": {"nodeExclusion": rule}})
    turn = Turn(observe(job, make_pod(0), make_pod(1), after_s=NOW_S), status)
    return excluding(turn, losses or [])


def excluded(turn: Turn) -> list[str]:
    return [entry.node for entry in turn.status.excluded_nodes]


GPU_FAULT, NET, HANG = Cause.ACCELERATOR, Cause.COMMUNICATION, Cause.HANG
CASES: list[tuple[str, list[FailureStatus], list[str]]] = [
    ("none", [], []),
    ("one", [failure(1, "a")], []),
    ("two attempts", [failure(2, "a"), failure(1, "a")], ["a"]),
    ("two pods of one attempt", [failure(1, "a"), failure(1, "a")], []),
    ("two nodes", [failure(2, "a"), failure(1, "b")], []),
    ("both nodes twice", [failure(1, "a"), failure(1, "b"), failure(2, "a"), failure(2, "b")], ["a", "b"]),
    ("communication", [failure(2, "a", NET), failure(1, "a", NET)], ["a"]),
    ("hang", [failure(2, "a", HANG), failure(1, "a", HANG)], ["a"]),
    ("mixed", [failure(2, "a", NET), failure(1, "a", GPU_FAULT)], ["a"]),
    ("whose peer is dead", [failure(n, node, NET) for n in (1, 2) for node in "ab"], []),
    (
        "accelerator beside its peers",
        [failure(n, "a", GPU_FAULT) for n in (1, 2)] + [failure(n, m, NET) for n in (1, 2) for m in "bc"],
        ["a"],
    ),
    ("infrastructure", [failure(2, "a", Cause.INFRASTRUCTURE), failure(1, "a", Cause.INFRASTRUCTURE)], []),
    ("application", [failure(2, "a", Cause.APPLICATION), failure(1, "a", Cause.APPLICATION)], []),
    ("no node", [failure(2, None, HANG), failure(1, None, HANG)], []),
    ("too long ago", [failure(2, "a"), failure(1, "a", age_s=3600)], []),
    ("just in time", [failure(2, "a"), failure(1, "a", age_s=3599)], ["a"]),
    ("preflight blames others", [failure(n, "a", NET, reason="PreflightFailed") for n in (1, 2)], []),
]


@pytest.mark.parametrize(("failures", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_which_nodes(failures: list[FailureStatus], expected: list[str]) -> None:
    turn = judged(*failures)
    assert excluded(turn) == expected
    assert [event.reason for event in turn.events] == ["NodeExcluded"] * bool(expected)
    for entry in turn.status.excluded_nodes:
        assert parse_time(entry.until) == later(NOW_S + 3600)
        assert entry.reason == "2 failures within 3600 s"


@pytest.mark.parametrize("failures", [1, 2, 3, 4])
def test_threshold_and_cooldown_are_the_jobs(failures: int) -> None:
    turn = judged(*[failure(n, "a") for n in (3, 2, 1)], failures=failures, cooldownSeconds=120)
    assert excluded(turn) == (["a"] if failures <= 3 else [])
    assert all(parse_time(entry.until) == later(NOW_S + 120) for entry in turn.status.excluded_nodes)


def preflight(*nodes: str) -> list[Loss]:
    return [Loss(Member(0, 0, "demo-worker-0-0", None), NET, "PreflightFailed", bad_nodes=nodes)]


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ((), []),
        (("node-0",), ["node-0"]),
        (("node-1",), ["node-1"]),
        (("node-7",), []),
        (("node-1", "node-7"), ["node-1"]),
        (("node-0", "node-1"), []),
    ],
)
def test_preflight_may_name_nodes_of_this_gang_but_not_all(named: tuple[str, ...], expected: list[str]) -> None:
    assert excluded(judged(losses=preflight(*named))) == expected


def entry(node: str, in_s: float) -> Exclusion:
    return Exclusion(node=node, until=rfc3339(later(NOW_S + in_s)), reason="x")


def test_exclusions_end_and_are_kept_until_then() -> None:
    status = Status(generation=1, excluded_nodes=[entry("a", -1), entry("b", 0), entry("c", 1)])
    turn = exclusion(Turn(observe(make_job(status), after_s=NOW_S), status))
    assert excluded(turn) == ["c"]


def test_new_exclusions_are_added_to_old_ones_and_the_list_is_bounded() -> None:
    before = [entry(f"n{number:02}", number) for number in range(64)]
    turn = judged(failure(2, "a"), failure(1, "a"), before=before)
    assert len(excluded(turn)) == 64
    assert excluded(turn)[-1] == "a"
    assert "n00" not in excluded(turn), "the one that would have ended first"


def test_unreadable_time_ends_an_exclusion() -> None:
    status = Status(generation=1, excluded_nodes=[Exclusion(node="a", until="soon")])
    assert excluded(exclusion(Turn(observe(make_job(status)), status))) == []


# -- manifests ----------------------------------------------------------------------------------------------------

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
NOT_A = {"key": "metadata.name", "operator": "NotIn", "values": ["a"]}
NOT_B = {"key": "metadata.name", "operator": "NotIn", "values": ["b"]}
GPU = {"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}
ARM = {"matchExpressions": [{"key": "arm", "operator": "Exists"}]}


@pytest.mark.parametrize(
    ("affinity", "terms"),
    [
        (None, [{"matchFields": [NOT_A, NOT_B]}]),
        ({"podAffinity": {"x": 1}}, [{"matchFields": [NOT_A, NOT_B]}]),
        ({"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [GPU]}}}, [GPU | {"matchFields": [NOT_A, NOT_B]}]),
        (
            {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [GPU, ARM]}, "preferred": [1]}},
            [GPU | {"matchFields": [NOT_A, NOT_B]}, ARM | {"matchFields": [NOT_A, NOT_B]}],
        ),
    ],
)
def test_every_term_of_the_affinity_keeps_away(affinity: dict[str, Any] | None, terms: list[dict[str, Any]]) -> None:
    """A node must satisfy only one of the terms."""
    pod: dict[str, Any] = {"spec": {"containers": []} | ({"affinity": affinity} if affinity else {})}
    found = away_from(pod, ("b", "a"))["spec"]["affinity"]
    assert found["nodeAffinity"][REQUIRED]["nodeSelectorTerms"] == terms
    for kind, rules in (affinity or {}).items():
        assert found[kind].items() >= {key: value for key, value in rules.items() if key != REQUIRED}.items()
    assert away_from(pod, ()) is pod


# -- in a world ---------------------------------------------------------------------------------------------------

ECC = "CUDA error: uncorrectable ECC error encountered"


def faulty(times: int) -> World:
    """Worker 1's node has a broken GPU."""
    world = World(make_manifest(spec={"recovery": {"backoff": {"initialSeconds": 0, "maxSeconds": 0}}}))
    for incarnation in range(times):
        world.run(lambda w: w.status.state == "Running")
        words = make_last_words(world.status.generation, message=ECC)
        world.end(f"demo-worker-1-{incarnation}", 1, message=words, reason="Error")
        world.tick()
    return world


def test_node_that_fails_again_is_avoided_by_the_next_pod() -> None:
    world = faulty(2)
    assert [found.node for found in world.status.excluded_nodes] == ["node-1"]
    assert [event.reason for event in world.events].count("NodeExcluded") == 1
    created = world.observe()
    assert created.pods
    world.tick()
    assert world.pods["demo-worker-1-2"].node == "spare-1"
    assert world.status.restarts.accelerator == 2
    assert ends(world, Watcher(world)).status.state == "Succeeded"


def test_manifest_of_a_replacement_names_the_node() -> None:
    world = faulty(1)
    world.run(lambda w: w.status.state == "Running")
    world.end("demo-worker-1-1", 1, message=make_last_words(2, message=ECC), reason="Error")
    [pod] = world.reconcile().create
    [term] = pod["spec"]["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]
    assert term["matchFields"] == [{"key": "metadata.name", "operator": "NotIn", "values": ["node-1"]}]


def test_members_on_the_node_are_replaced_with_it() -> None:
    """The one that the preflight names need not be one of those that failed it."""
    world = World(make_manifest())
    for _ in range(3):
        world.tick()
    wire = {"kind": "preflight", "nodes": ["node-2"], "message": "node rank 2 did not answer"}
    world.end("demo-worker-0-0", 71, message=make_last_words(1, message="x", failure=wire), reason="Error")
    world.reconcile()
    status = world.status
    assert status.incarnations == {"0": 1, "2": 1}
    assert (status.reason, status.failures[0].reason) == ("PreflightFailed", "PreflightFailed")
    assert status.restarts.communication == 1
    assert [found.node for found in status.excluded_nodes] == ["node-2"]
    assert ends(world, Watcher(world)).status.state == "Succeeded"
    assert world.pods["demo-worker-2-1"].node == "spare-2"


def test_exclusion_ends_after_its_cooldown_and_costs_one_write() -> None:
    world = faulty(2)
    world.run(lambda w: w.status.state == "Running")
    world.now += timedelta(hours=2)
    world.hangs.clear()
    world.train()
    world.reconcile()
    assert world.status.excluded_nodes == []


def test_stop_between_any_two_writes_of_an_exclusion_is_harmless() -> None:
    world = faulty(1)
    world.run(lambda w: w.status.state == "Running")
    world.end("demo-worker-1-1", 1, message=make_last_words(2, message=ECC), reason="Error")
    crash_everywhere(world)
    comes_to_rest(world)


def test_unschedulable_because_of_us_says_so() -> None:
    world = faulty(2)
    name = "demo-worker-1-2"
    world.pods[name] = replace(
        world.pods[name], phase="Pending", ready=False, reason="Unschedulable", message="0/2 nodes"
    )
    world.reconcile()
    told = next(c for c in world.status.conditions if c.type == "PodsReady")
    assert told.reason == "Unschedulable"
    assert told.message == "worker 1: Unschedulable: 0/2 nodes; the job keeps away from node-1 (status.excludedNodes)"
