"""A kubelet may lose a change of the membership: a gang that is whole, and goes on as before, is reminded."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from deepseek_operator.api.names import ANNOTATION_REMINDER
from deepseek_operator.decide import Plan, decide
from support.make import make_manifest
from support.world import World


def deaf_gang() -> World:
    """Two workers; slot 0's pod was lost and replaced, all are ready, and nobody has begun generation 2 yet."""
    world = World(make_manifest(replicas=2, spec={"scheduling": {"spares": 1}}))
    world.run(lambda w: w.status.state == "Running")
    world.run(lambda w: all(pod.ready for pod in w.live()))
    world.vanish("demo-worker-1-0")
    world.run(lambda w: w.status.generation == 2 and w.status.assembled_at is not None)
    return world


def plan_after(world: World, seconds: float, generation: int | None) -> Plan:
    seen = world.observe()
    assert seen.progress is not None
    progress = replace(seen.progress, generation=generation) if generation is not None else None
    return decide(replace(seen, progress=progress, now=seen.now + timedelta(seconds=seconds)))


def reminded(plan: Plan) -> dict[str, str]:
    return {p.name: p.annotations[ANNOTATION_REMINDER] for p in plan.patch if ANNOTATION_REMINDER in p.annotations}


@pytest.mark.parametrize(
    ("seconds", "number"), [(0, 0), (1.9, 0), (2, 1), (5.9, 1), (6, 2), (14, 3), (510, 8), (9000, 8)]
)
def test_reminders_come_more_and_more_rarely_and_end(seconds: float, number: int) -> None:
    world = deaf_gang()
    told = reminded(plan_after(world, seconds, generation=1))
    assert set(told.values()) == ({f"2.{number}"} if number else set())
    assert len(told) == (2 if number else 0), "both members, and not who waits beside them"


def test_each_is_sent_once_and_the_next_is_awaited() -> None:
    world = deaf_gang()
    plan = plan_after(world, 3, generation=1)
    for patch in plan.patch:
        world.pods[patch.name] = replace(world.pods[patch.name], reminder=patch.annotations[ANNOTATION_REMINDER])
    again = plan_after(world, 3, generation=1)
    assert reminded(again) == {}
    assert again.requeue_after_s == pytest.approx(3)


@pytest.mark.parametrize("generation", [2, None], ids=["it has begun", "nobody answers"])
def test_without_need_nobody_is_reminded(generation: int | None) -> None:
    assert reminded(plan_after(deaf_gang(), 60, generation)) == {}
