"""Agents check the gang before its first step: a healthy one trains, a node that is not is named by everyone."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from deepseek_trainer.agent import exec
from support import zygote
from support.agents import DEADLINE_S, Pod, World
from support.eventually import eventually
from support.zygote import Zygote, fork_of

pytestmark = [pytest.mark.training, pytest.mark.timeout(900)]

PATIENT_S, QUICK_S = 100, 60
"""Where nothing is to run out, or phases before the one that is; and where the first phase is."""


def start(world: World, *names: str, **environ: str) -> list[Pod]:
    """Pods that check their gang; pod x is on node-x."""
    asked = {"DEEPSEEKJOB_PREFLIGHT_TIMEOUT_S": str(PATIENT_S), "DEEPSEEKJOB_BACKEND": "gloo"} | environ
    return [world.start(name, **asked, DEEPSEEKJOB_NODE_NAME=f"node-{name}") for name in names]


def checking(world: World, pod: Pod) -> int:
    """The pod's check process, once it is there."""

    def probe() -> list[int]:
        return [pid for pid in pod.children() if b"deepseek_trainer.preflight" in _command(pid)]

    return eventually(probe, deadline_s=DEADLINE_S, what=f"{pod.name} checks", describe=world.describe)[0]


def all_checking(world: World, *pods: Pod) -> None:
    """Waits until every agent knows that the round has started, and has a check process: from then on it is the check's."""
    for pod in pods:
        world.await_log(pod, "preflight started")
        checking(world, pod)


def fork(world: World, pid: int) -> int:
    """The fork that a process stands for."""
    return eventually(lambda: fork_of(pid) or 0, deadline_s=DEADLINE_S, what="a fork", describe=world.describe)


def _told(pid: int, name: str) -> str:
    """A variable of the environment that the process was started with."""
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry)[name]


def _command(pid: int) -> bytes:
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_bytes() if path.exists() else b""


def passed(pod: Pod) -> list[str]:
    return [line for line in pod.log().splitlines() if 'event="preflight passed"' in line]


def verdict(pod: Pod) -> dict[str, Any]:
    assert pod.wait() == 71, pod.log()
    return dict(pod.last_words()["failure"])


def test_a_healthy_gang_is_measured_and_trains_and_only_new_members_are_checked_again(world: World) -> None:
    a, b, c = start(world, "a", "b", "c", DEEPSEEKJOB_PREFLIGHT_MIN_MBPS="1")
    world.announce(1, a, b, c, host=1)
    world.await_step(world=3)
    for pod in (a, b, c):
        (line,) = passed(pod)
        assert f"node=node-{pod.name} " in line
        assert "pairs=2 " in line
        found = {name: int(number) for name, number in re.findall(r" (\w+)=(\d+)(?= )", line)}
        assert 0 < found["gang_min_mbps"] <= found["min_mbps"] <= found["median_mbps"]
        assert found["all_reduce_mbps"] > 0

    os.kill(b.children()[0], signal.SIGKILL)
    world.await_step(after=world.log()[-1]["step"] + 5, generation=1)
    assert [len(passed(pod)) for pod in (a, b, c)] == [1, 1, 1], "a crashed process needs no new check"

    b.kill()
    world.announce(2, a, c)
    world.await_step(generation=2, world=2)
    assert [len(passed(pod)) for pod in (a, c)] == [1, 1], "nobody is new"

    (d,) = start(world, "d")
    world.announce(3, a, d, c, host=2)
    world.await_step(generation=3, world=3)
    assert [len(passed(pod)) for pod in (a, d, c)] == [2, 1, 2], "d was never checked"


@pytest.fixture(scope="module")
def late() -> Iterator[Zygote]:
    """Has what a check process imports. Held, it keeps the gangs of its pods from going on until it is released."""
    made = Zygote("deepseek_trainer.preflight.groups")
    made.start(
        [sys.executable, "-m", "deepseek_trainer.preflight.task"], environ=os.environ, log=Path(os.devnull)
    ).wait()
    yield made
    made.close()


def test_a_node_whose_check_crashes_ends_and_the_others_go_on_with_another(world: World) -> None:
    a, b, c = (*start(world, "a"), *start(world, "b", DEEPSEEKJOB_PREWARM="1"), *start(world, "c"))
    eventually(lambda: b.get("/readyz"), deadline_s=DEADLINE_S, what="b's zygote is warm", describe=world.describe)
    (own,) = b.zygotes()
    os.kill(own, signal.SIGSTOP)  # so that b's check waits, and the others' for it
    world.announce(1, a, b, c)
    check = checking(world, b)
    assert _told(check, exec.ZYGOTE) not in zygote.shared().environ.values(), "the pod's own zygote is to be used"
    os.kill(check, signal.SIGKILL)
    words = verdict(b)
    assert words | {"kind": "preflight", "nodes": ["node-b"], "exitCode": 71} == words
    assert "node node-b (node rank 1): its check process died of SIGKILL" in words["message"]
    assert b.last_words()["generation"] == 1
    world.await_log(a, 'event="preflight failed"')
    assert [pod.process.poll() for pod in (a, c)] == [None, None]
    (d,) = start(world, "d")
    world.announce(2, a, d, c)
    assert world.await_step(world=3)["generation"] == 2
    assert world.log()[0]["generation"] == 2, "nothing was trained before"


@dataclass(frozen=True)
class Gang:
    """Three pods in a preflight."""

    world: World
    a: Pod
    b: Pod
    c: Pod


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory, late: Zygote) -> Iterator[dict[str, Gang]]:
    """Gangs in which something stops answering. What is found out by waiting is waited for side by side."""
    gangs: dict[str, Gang] = {}

    def gang(name: str, whose: str, host: int, timeout_s: int) -> Gang:
        """One that is checking, and can't begin to measure, because the check of a pod is late."""
        world = World(tmp_path_factory.mktemp(name), zygote=zygote.shared())
        told = {"DEEPSEEKJOB_PREFLIGHT_TIMEOUT_S": str(timeout_s)}
        pods = [start(world, pod, **told, **(late.environ if pod == whose else {}))[0] for pod in "abc"]
        world.announce(1, *pods, host=host)
        all_checking(world, *pods)
        gangs[name] = Gang(world, *pods)
        return gangs[name]

    late.hold()
    gang("frozen-node", "b", 2, QUICK_S).b.freeze()
    gang("frozen-host", "a", 0, QUICK_S).a.freeze()
    stopped = gang("stopped-check", "b", 0, PATIENT_S)
    stopped.world.await_log(stopped.c, 'event="preflight ready"')
    os.kill(fork(stopped.world, checking(stopped.world, stopped.c)), signal.SIGSTOP)
    late.release()
    yield gangs
    for made in gangs.values():
        made.world.close()


def test_a_frozen_node_is_named_by_another(troubled: dict[str, Gang]) -> None:
    gang = troubled["frozen-node"]
    words = verdict(gang.a)
    assert words["nodes"] == ["node-b"]
    assert "node node-b (node rank 1): did not answer" in words["message"]
    assert (gang.b.process.poll(), gang.c.process.poll()) == (None, None), "one speaker is enough"
    (d,) = start(gang.world, "d")
    gang.world.announce(2, d, gang.c, host=1)
    assert gang.world.await_step(world=2)["generation"] == 2


def test_a_frozen_host_of_the_store_is_named_too(troubled: dict[str, Gang]) -> None:
    gang = troubled["frozen-host"]
    words = verdict(gang.b)
    assert words["nodes"] == ["node-a"]
    assert "the store that it hosts stopped answering" in words["message"]
    assert gang.c.process.poll() is None


def test_a_check_that_stops_once_it_is_ready_is_named_in_time(troubled: dict[str, Gang]) -> None:
    gang = troubled["stopped-check"]
    words = verdict(gang.c)
    assert words["nodes"] == ["node-c"]
    assert "stopped answering" in words["message"]
    assert (gang.a.process.poll(), gang.b.process.poll()) == (None, None)


def test_a_gang_that_no_pair_of_is_fast_enough_fails_and_names_nobody(world: World) -> None:
    a, b, c = start(world, "a", "b", "c", DEEPSEEKJOB_PREFLIGHT_MIN_MBPS="9999999")
    world.announce(1, a, b, c)
    words = verdict(a)
    assert words["nodes"] == []
    assert "lower preflight.minBandwidthMbps" in words["message"]
    assert (b.process.poll(), c.process.poll()) == (None, None)
