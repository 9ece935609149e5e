"""Hangs: what stands still, for how long, and who is replaced for it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from deepseek_operator.api.conditions import rfc3339
from deepseek_operator.api.v1alpha1 import Status
from deepseek_operator.decide.hang import hang, hung, left_until_hang_s
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Consulted, Progress, SettledHang
from deepseek_operator.observe import doubtful
from support.laws import Watcher, comes_to_rest, crash_everywhere, ends, tick
from support.make import later, make_job, make_manifest, make_pod, make_progress, make_script_manifest, observe
from support.world import World

NOW_S = 10_000.0
TIMEOUT_S = 1800


def ago(seconds: float) -> str:
    return rfc3339(later(NOW_S - seconds))


def turn(
    report: Progress | None,
    *,
    step: int | None = 40,
    phase: str = "training",
    unanswered: bool = False,
    pods: int = 2,
    **status: Any,
) -> Turn:
    training = {"phase": phase, "step": step, "time": ago(60)}
    whole = Status.model_validate(
        {"generation": 1, "attempt": 1, "launchedGeneration": 1, "nodes": {"desired": pods}, "training": training}
    ).model_copy(update=status)
    seen = observe(make_job(whole, replicas=pods), *[make_pod(slot) for slot in range(pods)], after_s=NOW_S)
    return Turn(replace(seen, unanswered=unanswered), whole, report=report)


@pytest.mark.parametrize(
    ("report", "stepped_at", "expected"),
    [
        (make_progress(step=41), ago(99), 0),
        (make_progress(step=39), ago(99), 0),
        (make_progress(step=40), ago(99), 99),
        (make_progress(step=None, phase="starting"), ago(99), 99),
        (make_progress(step=40, phase="checkpointing"), ago(99), 99),
        (make_progress(step=40), None, 0),
        (make_progress(step=0), None, None),
        (make_progress(step=40, resumed_step=40), None, None),
        (make_progress(step=41, resumed_step=40), None, 0),
        (make_progress(step=None, phase="preparing"), None, None),
        (None, ago(99), 99),
        (None, None, None),
    ],
)
def test_when_the_step_grew(report: Progress | None, stepped_at: str | None, expected: int | None) -> None:
    found = hang(turn(report, stepped_at=stepped_at)).status.stepped_at
    assert found == (None if expected is None else ago(expected))


@pytest.mark.parametrize("before", ["checkpointing", "evaluating", "starting", "preparing"])
def test_clock_begins_anew_when_training_goes_on(before: str) -> None:
    assert hang(turn(make_progress(step=40), phase=before, stepped_at=ago(99))).status.stepped_at == ago(0)


@pytest.mark.parametrize(
    ("report", "unanswered", "stepped_at", "unheard_since", "expected"),
    [
        (None, True, ago(99), None, ago(0)),
        (None, True, ago(99), ago(50), ago(50)),
        (None, True, None, None, None),
        (None, False, ago(99), None, None),
        (None, False, ago(99), ago(50), ago(50)),
        (make_progress(step=40), False, ago(99), ago(50), None),
    ],
)
def test_since_when_nobody_answers(
    report: Progress | None,
    unanswered: bool,
    stepped_at: str | None,
    unheard_since: str | None,
    expected: str | None,
) -> None:
    """An operator that has just started has not asked yet: that is no silence."""
    found = hang(turn(report, unanswered=unanswered, stepped_at=stepped_at, unheard_since=unheard_since))
    assert found.status.unheard_since == expected


@pytest.mark.parametrize("age_s", [0, 1799, 1800, 1801, 9000])
@pytest.mark.parametrize("phase", ["training", "evaluating", "checkpointing", "preparing", "starting", "finished"])
def test_only_training_can_stand_still(age_s: int, phase: str) -> None:
    found = hung(turn(make_progress(step=40, phase=phase), stepped_at=ago(age_s)))
    assert bool(found) == (phase == "training" and age_s >= TIMEOUT_S)


@pytest.mark.parametrize(
    ("unanswered", "stepped_at", "unheard_since", "expected"),
    [
        (True, ago(9000), ago(1800), True),
        (True, ago(9000), ago(1799), False),
        (True, ago(9000), None, False),
        (False, ago(9000), ago(9000), False),
        (True, None, ago(9000), False),
    ],
)
def test_no_answer_for_so_long(
    unanswered: bool, stepped_at: str | None, unheard_since: str | None, expected: bool
) -> None:
    found = hung(turn(None, unanswered=unanswered, stepped_at=stepped_at, unheard_since=unheard_since))
    assert bool(found) == expected
    if found:
        [loss] = found
        assert (loss.member.slot, loss.reason, loss.node, loss.replaced) == (0, "NoAnswer", "node-0", True)


@pytest.mark.parametrize(
    ("ready", "floor_s", "unheard_s", "expected"),
    [
        (False, None, 60, True),
        (False, None, 59, False),
        (False, 5, 5, True),
        (False, 9000, 1800, True),
        (False, 9000, 1799, False),
        (True, 5, 1799, False),
    ],
)
@pytest.mark.parametrize("phase", ["training", "checkpointing"])
def test_a_pod_that_the_kubelet_does_not_hear_either_is_given_the_floor(
    phase: str, ready: bool, floor_s: int | None, unheard_s: int, expected: bool
) -> None:
    """Frozen while it saves, it would else be waited for as long as a save may take."""
    status = turn(None, phase=phase, stepped_at=ago(9000), unheard_since=ago(unheard_s)).status
    job = make_job(status, replicas=2, spec={"recovery": {"hangFloorSeconds": floor_s}} if floor_s else {})
    seen = observe(job, make_pod(0, ready=ready), make_pod(1), after_s=NOW_S)
    silent = Turn(replace(seen, unanswered=True), status, report=None)
    assert [(loss.member.slot, loss.reason) for loss in hung(silent)] == ([(0, "NoAnswer")] if expected else [])
    assert (left_until_hang_s(silent) or 0) <= (0 if expected else TIMEOUT_S)


def test_time_left_is_when_it_is_looked_at_again() -> None:
    assert left_until_hang_s(turn(make_progress(step=40), stepped_at=ago(1790))) == 10
    assert left_until_hang_s(turn(make_progress(step=40, phase="evaluating"), stepped_at=ago(1790))) is None


def test_hang_names_the_node_only_of_a_gang_of_one() -> None:
    [alone] = hung(turn(make_progress(step=40), stepped_at=ago(1800), pods=1))
    [one_of_two] = hung(turn(make_progress(step=40), stepped_at=ago(1800), pods=2))
    assert (alone.node, one_of_two.node) == ("node-0", None)
    assert one_of_two.message == "no step after step 40 for 1800 s"
    assert not one_of_two.replaced


# -- a pod that neither its peers nor the operator hear -----------------------------------------------------------


def waiting(pod: str = "demo-worker-1-0", *, reason: str = "silent", generation: int = 1, round: int = 0) -> Progress:
    """The report of an agent that waits in round 0 of generation 1, after it settled that hang."""
    return make_progress(hangs=(SettledHang(generation, round, reason, None, pod),))


SILENT = Consulted("demo-worker-1-0", None, silent=True)
HEARD = Consulted("demo-worker-1-0", make_progress())


@pytest.mark.parametrize(
    ("what", "report", "consulted", "ready", "expected"),
    [
        ("neither peers nor the operator hear it", waiting(), SILENT, True, True),
        ("neither peers nor the kubelet hear it", waiting(), None, False, True),
        ("it answers the operator", waiting(), HEARD, True, False),
        ("it was not asked yet", waiting(), Consulted("demo-worker-1-0"), True, False),
        ("nobody accuses it", make_progress(), SILENT, False, False),
        ("it was frozen, and is healed", waiting(reason="frozen"), SILENT, False, False),
        ("it came back, and the next round runs", replace(waiting(), round=1), SILENT, False, False),
        ("that was in another generation", waiting(generation=2), SILENT, False, False),
        ("somebody else's pod is accused", waiting("demo-worker-7-0"), SILENT, False, False),
    ],
)
def test_an_accused_agent_is_lost_only_if_the_operator_finds_it_silent(
    what: str, report: Progress, consulted: Consulted | None, ready: bool, expected: bool
) -> None:
    seen = turn(report, stepped_at=ago(5))
    pods = tuple(replace(pod, ready=ready) if pod.slot == 1 else pod for pod in seen.seen.pods)
    found = hung(replace(seen, seen=replace(seen.seen, pods=pods, consulted=consulted)))
    assert [(loss.member.slot, loss.reason, loss.replaced) for loss in found] == (
        [(1, "NoAnswer", True)] if expected else []
    ), what


@pytest.mark.parametrize(("unanswered", "expected"), [(True, [0]), (False, [])])
def test_a_peer_accuses_node_rank_0(unanswered: bool, expected: list[int]) -> None:
    seen = turn(None, unanswered=unanswered, stepped_at=ago(5), unheard_since=ago(4))
    consulted = Consulted("demo-worker-1-0", waiting("demo-worker-0-0"))
    found = hung(replace(seen, seen=replace(seen.seen, consulted=consulted)))
    assert [loss.member.slot for loss in found] == expected


@pytest.mark.parametrize(
    ("progress", "silent", "expected"),
    [
        (make_progress(), False, None),
        (None, False, None),
        (waiting(), False, "demo-worker-1-0"),
        (waiting("demo-worker-0-0"), False, None),
        (waiting("demo-worker-9-0"), False, None),
        (None, True, "demo-worker-2-0"),
    ],
)
def test_whom_the_operator_asks_as_well(progress: Progress | None, silent: bool, expected: str | None) -> None:
    """Of several witnesses the first that is ready."""
    pods = tuple(
        make_pod(slot, ready=slot != 1, membership=f'{{"generation": 1, "nodeRank": {slot}, "nodes": 3}}')
        for slot in range(3)
    )
    found = doubtful(pods, 1, progress, silent=silent)
    assert (found and found.name) == expected
    assert doubtful(pods, 2, progress, silent=silent) is None, "they are not in that generation"


# -- in a world ---------------------------------------------------------------------------------------------------


def training_world(timeout_s: int = 60, **recovery: Any) -> World:
    world = World(make_manifest(spec={"recovery": {"hangTimeoutSeconds": timeout_s, **recovery}}))
    for _ in range(5):
        world.tick()
    assert world.status.stepped_at is not None
    return world


def test_hang_restarts_all_and_replaces_nobody() -> None:
    world = training_world()
    world.hangs.add(1)
    world.run(lambda w: w.status.generation == 2, ticks=20)
    status = world.status
    assert (status.restarts.hang, status.total_restarts, status.reason) == (1, 1, "Hang")
    assert (status.incarnations, status.stepped_at) == ({}, None)
    assert (status.failures[0].cause, status.failures[0].reason) == ("Hang", "NoStep")
    assert world.events[-1].reason == "Hang"
    assert ends(world, Watcher(world)).status.state == "Succeeded"


def test_member_that_does_not_answer_its_probe_is_replaced_for_a_hang() -> None:
    world = training_world()
    world.hangs.add(1)
    world.pods["demo-worker-2-0"] = replace(world.pods["demo-worker-2-0"], ready=False)
    world.run(lambda w: w.status.generation == 2, ticks=20)
    assert world.status.incarnations == {"2": 1}
    assert (world.status.failures[0].node, world.status.failures[0].reason) == ("node-2", "NoAnswer")
    assert ends(world, Watcher(world)).status.state == "Succeeded"


def test_node_rank_0_that_does_not_answer_is_replaced() -> None:
    world = training_world()
    world.mute = True
    world.hangs.add(1)
    world.run(lambda w: w.status.generation == 2, ticks=30)
    assert world.status.incarnations == {"0": 1}
    world.mute = False
    assert ends(world, Watcher(world)).status.state == "Succeeded"


def test_silence_that_ends_in_time_costs_nothing_and_few_writes() -> None:
    world = training_world(timeout_s=600)
    world.hangs.add(1)
    before = world.status_writes
    world.mute = True
    for _ in range(10):
        world.tick()
    assert world.status.unheard_since is not None
    assert world.status_writes == before + 1
    world.mute = False
    world.hangs.clear()
    tick(world, Watcher(world))
    status = world.status
    assert (status.unheard_since, status.generation) == (None, 1)


def test_operator_that_was_away_for_long_takes_nothing_for_a_hang() -> None:
    """The step has grown meanwhile; and what was not asked for yet is no silence."""
    world = training_world()
    world.now += timedelta(hours=5)
    seen = replace(world.observe(), progress=None)
    assert world.think(seen).status.generation == 1
    world.train()
    world.reconcile()
    assert world.status.generation == 1


def test_hangs_spend_their_budget() -> None:
    world = training_world(budgets={"hang": 1}, backoff={"initialSeconds": 0, "maxSeconds": 0})
    watcher = Watcher(world)
    for generation in (1, 2):
        world.run(lambda w: w.status.stepped_at is not None and w.status.state == "Running")
        world.hangs.add(generation)
        world.run(lambda w, g=generation: w.status.generation > g or w.status.state == "Failed")  # type: ignore[misc]
        watcher.look()
    assert (world.status.state, world.status.reason) == ("Failed", "RestartLimitExceeded")
    assert "recovery.budgets.hang is 1" in next(c.message for c in world.status.conditions if c.type == "Failed")


def test_stop_between_any_two_writes_of_a_hang_is_harmless() -> None:
    world = training_world()
    world.hangs.add(1)
    world.now += timedelta(seconds=120)
    crash_everywhere(world)
    comes_to_rest(world)


def test_script_that_reports_no_step_is_never_taken_for_hanging() -> None:
    manifest = make_script_manifest(replicas=2)
    manifest["spec"]["recovery"] = {"hangTimeoutSeconds": 10}
    world = World(manifest)
    world.reconcile()
    world.kubelet()
    for _ in range(10):
        world.now += timedelta(hours=1)
        world.mute = not world.mute
        world.reconcile()
    assert (world.status.state, world.status.generation, world.status.stepped_at) == ("Running", 1, None)


def test_a_frozen_pod_that_its_peers_accuse_is_replaced_at_once() -> None:
    world = training_world(timeout_s=1800)
    world.hangs.add(1)
    world.pods["demo-worker-1-0"] = replace(world.pods["demo-worker-1-0"], ready=False)
    world.healed.append(SettledHang(1, 0, "silent", None, "demo-worker-1-0"))
    world.tick()
    status = world.status
    assert (status.generation, status.incarnations) == (2, {"1": 1})
    assert (status.restarts.hang, status.restarts.healed) == (1, 0)
    assert (status.failures[0].node, status.failures[0].reason) == ("node-1", "NoAnswer")
    assert ends(world, Watcher(world)).status.state == "Succeeded"
