"""The world grows, shrinks and is drained: the built-in trainer saves, moves and goes on; no step is lost or repeated."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from deepseek_trainer.checkpoint import layout
from support import paced
from support.agents import DEADLINE_S, Pod, World
from support.eventually import eventually, now
from support.runs import run_config

pytestmark = [pytest.mark.training, pytest.mark.timeout(900)]

STEPS = 70
_STEP = re.compile(r" step=(\d+) loss=")


def steps_of(world: World, pod: Pod, generation: int, after: int) -> int:
    """A step that was made in this generation, some steps after its first one."""

    def goes_on() -> int:
        said = pod.progress()
        step = int(said.get("step") or 0)
        return step if said["generation"] == generation and step > after + 3 else 0

    return eventually(goes_on, deadline_s=DEADLINE_S, what=f"steps in {generation}", describe=world.describe)


def test_planned_changes_cost_no_step(world: World, store_folder: Path, data_cache: Path) -> None:
    """2 -> 3 -> 1 -> 2 workers, then one is drained: it gets SIGTERM before anybody hears of its replacement.

    Nothing is saved on a schedule, so that whatever is kept was saved for the move.
    """
    config = run_config(
        checkpoints=world.folder / "checkpoints",
        data_cache=data_cache,
        every_steps=10_000,
        steps=STEPS,
        globalBatchSize=8,
    )
    gate = world.folder / "gate"
    first, second, third, fourth, fifth = (
        world.start_trainer(name, config, **{paced.GATE: str(gate)})
        for name in ("first", "second", "third", "fourth", "fifth")
    )
    sizes = [(first, second), (first, second, third), (first,), (first, fourth), (first, fifth)]
    made = 0
    for generation, members in enumerate(sizes, start=1):
        began = now()
        paced.hold(gate, after=made + 5, seconds=1.0)  # few are made until this test has seen one that it waits for
        if generation == 5:
            fourth.signal(signal.SIGTERM)
        world.announce(generation, *members, planned=generation > 1)
        if generation == 3:
            for removed in (second, third):
                removed.signal(signal.SIGTERM)
                assert removed.wait() == 75
        made = steps_of(world, first, generation, after=made)
        print(f"{len(members)} workers: {now() - began:.1f} s to step {made}")
    gate.unlink()
    assert made < STEPS, "it ended before the last change; raise STEPS"
    assert [first.wait(), fourth.wait(), fifth.wait()] == [0, 75, 0]
    steps = [int(step) for step in _STEP.findall(first.log())]
    assert steps == list(range(1, STEPS + 1)), "steps were lost or made twice"
    assert [start.planned for start in layout.starts(world.folder / "checkpoints")] == [False, True, True, True, True]
    words = first.last_words()
    assert (words["position"], words["processRestarts"]) == (STEPS * 8, 0)


def test_a_move_is_not_held_up_by_a_pod_that_is_frozen(world: World) -> None:
    """Its ranks can't take part in the last step; the grace alone would end the wait after ten minutes."""
    stays, frozen, joins = (world.start(name, DEEPSEEKJOB_TERMINATION_GRACE_S="600") for name in ("a", "b", "c"))
    world.announce(1, stays, frozen)
    before = world.await_step(generation=1)
    frozen.freeze()
    world.announce(2, stays, joins, planned=True)
    world.await_step(after=before["step"], generation=2)
    assert 'event="saving given up"' in stays.log()
