"""Agents as processes lose what clusters lose: a process, a pod, the host of the store, a node that freezes.

Each test prints the seconds from the fault to the next step; it asserts who trains with whom, never how fast.
"""

from __future__ import annotations

import os
import signal

import pytest
from support.agents import DEADLINE_S, World, now, thaw, timed
from support.eventually import eventually

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


def test_a_frozen_member_wakes_in_an_old_generation_and_does_no_harm(world: World) -> None:
    world.steps = 60
    a, b, old = (world.start(name) for name in ("a", "b", "old"))
    world.announce(1, a, b, old, host=2)
    world.await_step(world=3)
    frozen = old.freeze()
    began = now()
    world.announce(2, a, b, host=0)
    timed("the host of the store frozen, shrunk to 2", began, world.await_step(generation=2, world=2), a)
    thaw(frozen)
    assert (a.wait(), b.wait()) == (0, 0), world.describe()
    log = world.log()
    assert [line["step"] for line in log][-1] == 60
    first = next(index for index, line in enumerate(log) if line["generation"] == 2)
    assert {(line["generation"], line["world"]) for line in log[first:]} == {(2, 2)}
    assert old.process.poll() is None
    assert old.progress()["generation"] == 1
    assert "leaving without" not in a.log() + b.log()
    assert a.last_words()["step"] == 60
    old.signal(signal.SIGTERM)
    assert old.wait() != 0
