"""With DEEPSEEKJOB_PREWARM a lost process comes back without importing torch again; without its zygote it comes too."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from support.agents import DEADLINE_S, PLAIN, Pod, World, timed
from support.eventually import eventually, now

pytestmark = [pytest.mark.training, pytest.mark.timeout(600)]


def lose_process(world: World, pod: Pod, what: str) -> None:
    """Kills the pod's training process; returns once steps are made in the next round."""
    before = pod.progress()["round"]
    began = now()
    os.kill(pod.children()[0], signal.SIGKILL)
    eventually(lambda: pod.progress()["round"] > before, deadline_s=DEADLINE_S, what="a round", describe=world.describe)
    step = world.log()[-1]["step"]
    timed(what, began, world.await_step(after=step, world=2), pod)


def test_a_lost_process_is_forked_anew(world: World) -> None:
    a, b = (world.start(name, DEEPSEEKJOB_PREWARM="1", **PLAIN) for name in "ab")
    world.announce(1, a, b)
    world.await_step(world=2)
    (zygote,) = b.zygotes()
    lose_process(world, b, "a prewarmed process killed")
    assert b.zygotes() == [zygote], "the zygote was not used again"

    # The zygote goes, and its forks with it: the next ones start without it, or from its successor.
    os.kill(zygote, signal.SIGKILL)
    step = world.log()[-1]["step"]
    world.await_step(after=step + 5, world=2)
    assert b.zygotes() not in ([], [zygote])
    assert "prewarmed process is gone" in b.log()

    # All of it ends with the agent.
    remains = [*b.zygotes(), *b.children()]
    b.kill()
    eventually(lambda: not [pid for pid in remains if Path(f"/proc/{pid}").exists()], deadline_s=30, what="no remains")
