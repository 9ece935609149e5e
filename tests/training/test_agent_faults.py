"""Agents as processes lose what clusters lose: a process, a pod, the host of the store, a node that freezes.

Each test prints the seconds from the fault to the next step; it asserts who trains with whom, never how fast.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from deepseek_trainer.checkpoint import layout
from deepseek_trainer.checkpoint.layout import read_manifest
from support import paced
from support.agents import DEADLINE_S, SCRIPT, Pod, World, thaw, timed
from support.eventually import eventually, now
from support.runs import losses, run_config

pytestmark = [pytest.mark.training, pytest.mark.timeout(900)]


def test_training_goes_on_after_each_fault(world: World) -> None:
    a, b, c = (world.start(name) for name in "abc")
    began = now()
    world.announce(1, a, b, c, host=1)
    timed("start of 3", began, world.await_step(world=3), a)

    began = now()
    os.kill(b.children()[0], signal.SIGKILL)
    eventually(lambda: a.progress()["round"] == 1, deadline_s=DEADLINE_S, what="round 1", describe=world.describe)
    step = world.log()[-1]["step"]
    line = world.await_step(after=step, generation=1, world=3)
    timed("a training process killed", began, line, b)
    progress = eventually(
        lambda: (found := a.progress()).get("step", 0) >= line["step"] and found,
        deadline_s=DEADLINE_S,
        describe=world.describe,
    )
    assert progress | {"generation": 1, "attempt": 1, "nodeRank": 0, "processRestarts": 1} == progress
    assert progress["goodput"].keys() == {"productive", "startup", "checkpoint", "recovery", "stalled", "waiting"}
    assert progress["goodput"]["recovery"] > 0
    assert [pod.process.poll() for pod in (a, b, c)] == [None] * 3
    assert "SIGKILL" in b.log()

    replacement = world.start("d")
    began = now()
    b.kill()  # the host of the store, with all its processes
    world.announce(2, a, replacement, c, host=2)
    line = world.await_step(generation=2, world=3)
    timed("the pod that hosts the store killed and replaced", began, line, a)
    assert line["step"] > step

    began = now()
    a.kill()  # node rank 0: the training processes' own store
    world.announce(3, c, replacement, host=1)
    line = world.await_step(generation=3, world=2)
    timed("node rank 0 killed, shrunk to 2", began, line, c)
    assert (line["pod"], line["attempt"]) == ("c", 3)
    assert c.progress()["processRestarts"] <= 1
    assert b"deepseekjob_step" in c.get("/metrics")
    assert c.get("/healthz") == b"ok\n"


def test_a_frozen_member_wakes_in_an_old_generation_does_no_harm_and_ends(world: World) -> None:
    world.steps = 60
    a, b, old = (
        world.start(
            name,
            "--fence-grace-s=1",
            str(SCRIPT),
            str(world.shared),
            str(world.steps),
            DEEPSEEKJOB_CHECKPOINT_DIR=str(world.shared),
        )
        for name in ("a", "b", "old")
    )
    world.order("20", "gate")  # however long this test itself gets no processor, nothing is over before it has looked
    world.announce(1, a, b, old, host=2)
    world.await_step(world=3)
    frozen = old.freeze()
    began = now()
    world.announce(2, a, b, host=0)
    world.order("40", "gate")
    timed("the host of the store frozen, shrunk to 2", began, world.await_step(generation=2, world=2), a)
    thaw(frozen)
    assert old.wait() == 69, "it must find out by itself that the world has gone on"
    assert "it is not wanted any more" in old.last_words()["failure"]["message"]
    (world.shared / "gate").unlink()
    assert (a.wait(), b.wait()) == (0, 0), world.describe()
    log = world.log()
    assert [line["step"] for line in log][-1] == 60
    first = next(index for index, line in enumerate(log) if line["generation"] == 2)
    assert {(line["generation"], line["world"]) for line in log[first:]} == {(2, 2)}
    assert "leaving without" not in a.log() + b.log()
    assert a.last_words()["step"] == 60


def test_a_gang_of_one_that_wakes_beside_its_successor_neither_saves_nor_stays(
    world: World, store_folder: Path, data_cache: Path
) -> None:
    """It lacks no peer, so that nothing but the fence of its checkpoints stops it."""
    checkpoints = world.folder / "checkpoints"
    config = run_config(checkpoints=checkpoints, data_cache=data_cache, every_steps=20, steps=100)

    def start(name: str, held_after: int) -> tuple[Pod, Path]:
        gate = world.folder / f"{name}-gate"
        paced.hold(gate, after=held_after)
        return world.start_trainer(name, config, DEEPSEEKJOB_HANG_FLOOR_S="300", **{paced.GATE: str(gate)}), gate

    def await_save(step: int) -> None:
        mark = checkpoints / f"step-{step:08}" / layout.COMMITTED
        eventually(mark.exists, deadline_s=DEADLINE_S, what=f"a save of {step}", describe=world.describe)

    old, old_gate = start("old", 30)
    world.announce(1, old)
    await_save(20)
    frozen = old.freeze()
    successor, gate = start("new", 45)
    world.announce(2, successor)
    await_save(40)
    thaw(frozen)
    old_gate.unlink()
    assert old.wait() == 69
    gate.unlink()
    assert successor.wait() == 0
    by = {read_manifest(folder).generation for _, folder in layout.checkpoints(checkpoints)}
    assert by == {2}
    assert successor.last_words()["resumedStep"] == 20
    assert list(losses(successor.log())) == list(range(21, 101))
