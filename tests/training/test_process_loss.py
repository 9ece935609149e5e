"""A training process is killed, and then one frozen: the same pods go on, and the curve is the undisturbed one, bit for bit."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import paced
from support.agents import DEADLINE_S, Pod, World
from support.eventually import eventually
from support.runs import losses, run_config

pytestmark = [pytest.mark.training, pytest.mark.timeout(600)]

STEPS = 30
PACE_S = 1.0
"""A step's at which a fault is made, and of those after it: some are left then, whenever this test gets to see the first one."""


def run(
    world: World, case: str, data_cache: Path, gate: Path, disturb: Callable[[list[Pod]], None], **environ: str
) -> dict[int, float]:
    """The loss of each step of a run on two pods, paced by `gate`; the variables are rank 1's."""
    config = run_config(
        checkpoints=world.folder / case, data_cache=data_cache, every_steps=5, steps=STEPS, globalBatchSize=16
    )
    told = {
        "DEEPSEEKJOB_HANG_FACTOR": "4",
        "DEEPSEEKJOB_HANG_FLOOR_S": "8",
        "DEEPSEEKJOB_CHECKPOINT_DIR": str(world.folder / case),
        paced.GATE: str(gate),
    }
    pods = [
        world.start_trainer(f"{case}-0", config, **told),
        world.start_trainer(f"{case}-1", config, **(told | environ)),
    ]
    world.announce(1, *pods)
    disturb(pods)
    assert [pod.wait() for pod in pods] == [0, 0]
    return losses(pods[0].log())


def test_a_killed_and_a_frozen_rank_change_nothing_in_the_curve(
    world: World, store_folder: Path, data_cache: Path
) -> None:
    gate = world.folder / "gate"

    def disturb(pods: list[Pod]) -> None:
        kill_rank_1(pods)
        paced.hold(gate, after=16, seconds=PACE_S)
        freeze_rank_1(pods)
        gate.unlink()

    def steps_in_the_round_after(faulty: int, pods: list[Pod]) -> int:
        """The step that it went on from."""

        def goes_on() -> int:
            said = pods[0].progress()
            resumed: int | None = said.get("resumedStep")
            return resumed if said["round"] > faulty and resumed is not None and said["step"] > resumed else 0

        what = f"a step after round {faulty}"
        return eventually(goes_on, deadline_s=DEADLINE_S, what=what, describe=world.describe)

    def kill_rank_1(pods: list[Pod]) -> None:
        def saved_and_past_step_7() -> bool:
            return pods[0].step() > 7 and "checkpoint" in pods[0].progress()

        eventually(saved_and_past_step_7, deadline_s=DEADLINE_S, what="step 8, step 5 saved", describe=world.describe)
        began, faulty = time.monotonic(), pods[0].progress()["round"]
        os.kill(pods[1].children()[0], signal.SIGKILL)
        resumed = steps_in_the_round_after(faulty, pods)
        print(f"a rank of the built-in trainer killed: {time.monotonic() - began:.1f} s to step {resumed + 1}")
        assert resumed in range(5, STEPS, 5)

    def freeze_rank_1(pods: list[Pod]) -> None:
        eventually(lambda: pods[0].step() > 16, deadline_s=DEADLINE_S, what="step 17", describe=world.describe)
        began, faulty = time.monotonic(), pods[0].progress()["round"]
        os.kill(pods[1].trainers()[0], signal.SIGSTOP)
        steps_in_the_round_after(faulty, pods)
        print(f"a rank of the built-in trainer frozen: {time.monotonic() - began:.1f} s to the next step")
        [hang] = [hang for hang in pods[1].progress()["hangs"] if hang["round"] == faulty]
        assert (hang["reason"], hang["rank"], hang["pod"]) == ("frozen", 1, pods[1].name)
        assert "train.py" in (Path(hang["stacks"]) / "rank-0.txt").read_text()

    undisturbed = run(world, "undisturbed", data_cache, gate, lambda pods: None)
    paced.hold(gate, after=6, seconds=PACE_S)
    disturbed = run(world, "disturbed", data_cache, gate, disturb, DEEPSEEKJOB_PREWARM="1")
    assert sorted(undisturbed) == list(range(1, STEPS + 1))
    assert disturbed == undisturbed
