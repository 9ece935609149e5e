"""The laws of `support.laws` have teeth where the head of Ray is concerned: each broken `decide` is caught by one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from deepseek_operator.decide import decide
from deepseek_operator.decide.types import Observation, Plan
from support.laws import Watcher, comes_to_rest, crash_everywhere, ends, tick
from support.make import make_manifest
from support.world import Decide, World

Fault = Callable[[World], None]


def gone(world: World) -> None:
    """The pod of the head is deleted by force."""
    for head in world.live_heads()[-1:]:
        world.vanish(head.name)


def lost(world: World) -> None:
    """It is terminating, and its kubelet will never say that it is gone."""
    for head in world.live_heads()[-1:]:
        world.frozen.add(head.name)
        world.delete(head.name, head.uid)


def suspended(world: World) -> None:
    world.edit(suspend=True)


def failed(world: World) -> None:
    """The job's config is wrong."""
    world.end("demo-worker-1-0", 78)


FAULTS: tuple[Fault, ...] = (World.end_head, gone, lost, suspended, failed)


def check(think: Decide) -> None:
    """A short life with every kind of trouble in it, under all laws."""
    for fault in FAULTS:
        world = World(make_manifest(spec={"data": {"corpus": "chitchat", "ray": {}}}), think=think)
        watcher = Watcher(world)
        for _ in range(4):
            tick(world, watcher)
        fault(world)
        crash_everywhere(world)
        for _ in range(3):
            tick(world, watcher)
        comes_to_rest(world)
        ends(world, watcher)


def of_one_name(seen: Observation) -> Plan:
    """A successor has the name of the head before."""
    plan = decide(seen)
    ray = plan.status.ray
    again = None if ray is None else ray.model_copy(update={"head": 0})
    return replace(plan, status=plan.status.model_copy(update={"ray": again}))


def run_on(seen: Observation) -> Plan:
    """A head is never deleted."""
    plan = decide(seen)
    heads = {head.name for head in seen.heads}
    return replace(plan, delete=tuple(delete for delete in plan.delete if delete.name not in heads))


def charged(seen: Observation) -> Plan:
    """A lost head is a loss of the job's."""
    plan = decide(seen)
    restarts = plan.status.restarts.model_copy(update={"infrastructure": 1})
    spent = any(head.phase == "Failed" for head in seen.heads)
    return replace(plan, status=plan.status.model_copy(update={"restarts": restarts})) if spent else plan


def overlooked(seen: Observation) -> Plan:
    """Suspended is said while the head still runs."""
    return decide(replace(seen, heads=() if seen.job.spec.suspend else seen.heads))


def test_the_policy_keeps_the_laws() -> None:
    check(decide)


@pytest.mark.parametrize("broken", [of_one_name, run_on, charged, overlooked], ids=lambda broken: broken.__name__)
def test_the_laws_catch(broken: Decide) -> None:
    with pytest.raises(AssertionError):
        check(broken)
