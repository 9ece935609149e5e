"""Pods that can't finish terminating: deleted by force when their node is lost, and only once they are nobody."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from deepseek_operator.decide import decide
from deepseek_operator.decide.types import DeletePod
from deepseek_operator.nodes import is_lost, marked, overdue_on
from support.laws import Watcher, comes_to_rest, crash_everywhere, ends
from support.make import later, make_manifest, make_pod
from support.world import World


def stuck(*, lost: bool = True) -> World:
    """Worker 1's node is gone, and nobody confirms that its pod has ended."""
    world = World(make_manifest())
    for _ in range(4):
        world.tick()
    name = "demo-worker-1-0"
    world.frozen.add(name)
    world.delete(name, world.pods[name].uid)
    if lost:
        world.lost.add(name)
    return world


def test_pod_on_a_lost_node_goes_once_it_is_replaced() -> None:
    world = stuck()
    uid = world.pods["demo-worker-1-0"].uid
    plan = world.reconcile()
    assert plan.status.incarnations == {"1": 1}, "the status comes first"
    assert plan.delete == (DeletePod("demo-worker-1-0", uid, force=True),)
    assert "demo-worker-1-0" not in world.pods
    assert ends(world, Watcher(world)).status.state == "Succeeded"


def test_pod_that_only_takes_its_time_is_left_alone() -> None:
    world = stuck(lost=False)
    world.reconcile()
    for _ in range(5):
        assert world.tick().delete == ()
    assert "demo-worker-1-0" in world.pods


def test_member_is_never_forced_before_the_status_has_replaced_it() -> None:
    """The refused status write leaves everything as it is."""
    world = stuck()
    world.reconcile(stop_after=0)
    assert "demo-worker-1-0" in world.pods
    world.pods["demo-worker-1-0"] = replace(world.pods["demo-worker-1-0"], terminating=False)
    assert world.reconcile().delete == ()


def test_put_off_restart_forces_nothing() -> None:
    """As long as a restart waits, the pod still is a member of the present generation."""
    world = stuck()
    for second in range(5):
        plan = decide(replace(world.observe(), now=world.now + timedelta(seconds=second)))
        if plan.status.generation == world.status.generation:
            assert not any(delete.force for delete in plan.delete)


@pytest.mark.parametrize("exit_code", [0, 78])
def test_ended_job_is_looked_at_until_its_last_pod_is_gone(exit_code: int) -> None:
    world = stuck(lost=False)
    world.reconcile()
    world.run(lambda w: w.status.state == "Running")
    for name in list(world.pods):
        world.end(name, exit_code)
    world.run(lambda w: w.status.completion_time is not None)
    pod = world.pods["demo-worker-1-0"] = replace(
        world.pods["demo-worker-1-0"], phase="Running", exit_code=None, terminating=True
    )
    plan = world.reconcile()
    assert (plan.delete, plan.requeue_after_s) == ((), 30)
    world.lost.add(pod.name)
    assert world.reconcile().delete == (DeletePod(pod.name, pod.uid, force=True),)
    assert world.reconcile().requeue_after_s is None


def test_stop_between_any_two_writes_is_harmless() -> None:
    crash_everywhere(stuck())
    comes_to_rest(stuck())


# -- proof --------------------------------------------------------------------------------------------------------


def taint(name: str) -> dict[str, str]:
    return {"key": f"node.kubernetes.io/{name}", "effect": "NoExecute"}


@pytest.mark.parametrize(
    ("ready", "taints", "lost"),
    [
        ("True", [], False),
        ("True", ["unreachable"], False),
        ("True", ["unschedulable"], False),
        ("True", ["out-of-service"], True),
        ("Unknown", [], False),
        ("Unknown", ["unreachable"], True),
        ("Unknown", ["not-ready"], True),
        ("Unknown", ["unschedulable", "memory-pressure"], False),
        ("False", [], False),
        ("False", ["not-ready"], True),
        (None, ["unreachable"], False),
        (None, [], False),
    ],
)
def test_what_proves_that_a_node_is_lost(ready: str | None, taints: list[str], lost: bool) -> None:
    conditions = [{"type": "MemoryPressure", "status": "Unknown"}]
    conditions += [{"type": "Ready", "status": ready}] if ready else []
    node = {"spec": {"taints": [taint(name) for name in taints]}, "status": {"conditions": conditions}}
    assert is_lost(node) is lost


def test_node_that_is_gone_is_lost_and_an_empty_object_proves_nothing() -> None:
    assert is_lost(None)
    assert not is_lost({})


@pytest.mark.parametrize(("late_s", "asked"), [(-60, False), (0, False), (30, False), (31, True), (9999, True)])
def test_nodes_are_asked_for_only_when_a_pod_is_long_overdue(late_s: float, asked: bool) -> None:
    now = later(100_000)
    pods = (
        make_pod(0, gone_by=now - timedelta(seconds=late_s), terminating=True, node="n0"),
        make_pod(1, node="n1"),
        make_pod(2, gone_by=now - timedelta(days=1), terminating=True, node=None),
    )
    assert overdue_on(pods, now) == (("n0",) if asked else ())
    assert [pod.node_lost for pod in marked(pods, frozenset({"n0", "n1"}), frozenset(), now)] == [asked, False, False]
