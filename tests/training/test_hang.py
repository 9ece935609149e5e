"""A rank that stands still is found by the agents, named, described on the volume, and healed in place."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.agents import DEADLINE_S, PLAIN, Pod, World, thaw, timed
from support.eventually import eventually, now

pytestmark = [pytest.mark.training, pytest.mark.timeout(600)]

QUICK = {
    "DEEPSEEKJOB_HANG_FACTOR": "2",
    "DEEPSEEKJOB_HANG_FLOOR_S": "10",
    "DEEPSEEKJOB_HANG_TIMEOUT_S": "120",
    "DEEPSEEKJOB_MAX_PROCESS_RESTARTS": "9",
}


def gang(world: World, **environ: str) -> list[Pod]:
    """Two pods of a script whose rank 0 reports, with a checkpoint volume and little patience; rank 1 is not prewarmed."""
    told = QUICK | {"DEEPSEEKJOB_CHECKPOINT_DIR": str(world.shared / "checkpoints")} | environ
    pods = [
        world.start("a", DEEPSEEKJOB_NODE_NAME="node-a", **told),
        world.start("b", DEEPSEEKJOB_NODE_NAME="node-b", **(told | PLAIN)),
    ]
    world.announce(1, *pods)
    world.await_step(world=2, after=80)
    return pods


def healed(world: World, pods: list[Pod], what: str, fault: Callable[[], object]) -> dict[str, Any]:
    """Waits for steps in the round after the fault's, in the same generation; the hang that the agents tell of."""
    began, faulty = now(), pods[0].progress()["round"]
    fault()

    def told(pod: Pod) -> list[dict[str, Any]]:
        return [hang for hang in pod.progress()["hangs"] if hang["round"] >= faulty]

    [hang] = eventually(lambda: told(pods[0]), deadline_s=DEADLINE_S, what="a hang", describe=world.describe)
    step = world.log()[-1]["step"]
    timed(what, began, world.await_step(after=step, world=2, generation=1), pods[0])
    assert pods[0].progress()["round"] == hang["round"] + 1
    assert told(pods[1]) == [hang]
    return hang


def stacks(hang: dict[str, Any]) -> list[str]:
    return [(Path(hang["stacks"]) / f"rank-{rank}.txt").read_text() for rank in range(2)]


def test_ranks_and_pods_that_stand_still(world: World) -> None:
    """One world, one after the other: a stopped rank, one that sleeps for ever, and a pod as a whole."""
    pods = gang(world)
    victim = pods[1].trainers()[0]
    hang = healed(world, pods, "a rank of a script stopped", lambda: os.kill(victim, signal.SIGSTOP))
    assert (hang["reason"], hang["rank"], hang["pod"], hang["node"]) == ("frozen", 1, "b", "node-b")
    waits, stopped = stacks(hang)
    assert "all_reduce" in waits
    assert "State: T" in stopped
    assert "no Python stacks" in stopped
    folder = world.shared / "checkpoints" / "hangs"
    assert hang["stacks"] == str(folder / f"generation-1-round-{hang['round']}")

    step = world.log()[-1]["step"]
    world.await_step(world=2, after=step + 40)
    hang = healed(world, pods, "a rank that sleeps for ever", lambda: world.order("", "sleep-0"))
    assert (hang.get("reason"), hang.get("rank")) == (None, None), "without a pulse nobody stands out"
    sleeps, waits = stacks(hang)
    assert "fall_asleep_for_ever" in sleeps
    assert "all_reduce" in waits
    assert hang["stacks"] == str(folder / f"generation-1-round-{hang['round']}")
    assert {str(path) for path in folder.iterdir()} == {one["stacks"] for one in pods[0].progress()["hangs"]}

    is_accused(world, frozen=pods[1], witness=pods[0])


def is_accused(world: World, *, frozen: Pod, witness: Pod) -> None:
    """Freezes a pod as a whole: the others say so, wait for it, and go on with it when it is back."""
    step = world.log()[-1]["step"]
    world.await_step(world=2, after=step + 40)
    began, number = now(), witness.progress()["round"]
    pids = frozen.freeze()

    def accused() -> bool:
        said = witness.progress()
        last = said["hangs"][-1]
        is_of_this = said["round"] == last["round"] >= number
        return is_of_this and (last.get("reason"), last["pod"]) == ("silent", frozen.name)

    eventually(accused, deadline_s=DEADLINE_S, what=f"{frozen.name} accused", describe=world.describe)
    print(f"pod {frozen.name} frozen: accused after {now() - began:.1f} s")
    eventually(lambda: not witness.children(), deadline_s=30, what="a witness that waits", describe=world.describe)
    thaw(pids)
    step = world.log()[-1]["step"]
    world.await_step(after=step + 1, world=2, generation=1)
