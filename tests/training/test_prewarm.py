"""With DEEPSEEKJOB_PREWARM a lost process comes back without importing torch again; without its zygote it comes too."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from support.agents import DEADLINE_S, PLAIN, Pod, World, timed
from support.eventually import eventually, now

pytestmark = [pytest.mark.training, pytest.mark.timeout(600)]


def lose(world: World, pod: Pod, pid: int, what: str) -> None:
    """Kills a process without which the pod can't train; returns once steps are made in the next round."""
    before = pod.progress()["round"]
    began = now()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: pod.progress()["round"] > before, deadline_s=DEADLINE_S, what="a round", describe=world.describe)
    step = world.log()[-1]["step"]
    timed(what, began, world.await_step(after=step, world=2), pod)


def test_a_lost_process_is_forked_anew(world: World) -> None:
    a, b = (world.start(name, DEEPSEEKJOB_PREWARM="1", **PLAIN) for name in "ab")
    world.announce(1, a, b)
    world.await_step(world=2)
    (zygote,) = b.zygotes()
    lose(world, b, b.children()[0], "a prewarmed process killed")
    assert b.zygotes() == [zygote], "the zygote was not used again"

    # The zygote goes, and its forks with it: the next ones start without it, or from its successor.
    lose(world, b, zygote, "a zygote killed")
    assert b.zygotes() not in ([], [zygote])
    assert "prewarmed process is gone" in b.log()

    # All of it ends with the agent.
    remains = [*b.zygotes(), *b.children()]
    b.kill()
    eventually(lambda: not [pid for pid in remains if Path(f"/proc/{pid}").exists()], deadline_s=30, what="no remains")


LOOK = """
import ctypes, json, logging, os, pathlib, signal, sys, threading, torch
from deepseek_trainer.agent.log import LOGGER
c10 = ctypes.CDLL(str(pathlib.Path(torch.__file__).parent / "lib" / "libc10.so"))
files = [pathlib.Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
pathlib.Path(sys.argv[1]).write_text(json.dumps({
    "sockets": [str(file) for file in files if file.is_socket()],
    "threads": threading.active_count(),
    "handled": [number for number in (signal.SIGTERM, signal.SIGQUIT) if callable(signal.getsignal(number))],
    "log handlers": len(logging.getLogger(LOGGER).handlers),
    "c10 warns": ctypes.c_int.in_dll(c10, "FLAGS_caffe2_log_level").value <= 1,
}))
"""


def test_a_process_has_nothing_of_the_agent_that_its_zygote_was_forked_from(world: World, tmp_path: Path) -> None:
    script, seen = tmp_path / "look.py", tmp_path / "seen.json"
    script.write_text(LOOK)
    pod = world.start("a", str(script), str(seen), DEEPSEEKJOB_PREWARM="1", **PLAIN)
    world.announce(1, pod)
    assert pod.wait() == 0, pod.log()
    assert json.loads(seen.read_text()) == {
        "sockets": [],
        "threads": 1,
        "handled": [],
        "log handlers": 0,
        "c10 warns": True,
    }
