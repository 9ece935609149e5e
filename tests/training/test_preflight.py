"""Agents check the gang before its first step: a healthy one trains, a node that is not is named by everyone."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from support.agents import DEADLINE_S, Pod, World, thaw
from support.eventually import eventually

pytestmark = [pytest.mark.training, pytest.mark.timeout(900)]

TIMEOUT_S = 60


def start(world: World, *names: str, **environ: str) -> list[Pod]:
    """Pods that check their gang; pod x is on node-x."""
    asked = {"DEEPSEEKJOB_PREFLIGHT_TIMEOUT_S": str(TIMEOUT_S), "DEEPSEEKJOB_BACKEND": "gloo"} | environ
    return [world.start(name, **asked, DEEPSEEKJOB_NODE_NAME=f"node-{name}") for name in names]


def checking(world: World, pod: Pod) -> int:
    """The pod's check process, once it is there."""

    def probe() -> list[int]:
        return [pid for pid in pod.children() if b"deepseek_trainer.preflight" in _command(pid)]

    return eventually(probe, deadline_s=DEADLINE_S, what=f"{pod.name} checks", describe=world.describe)[0]


def all_checking(world: World, *pods: Pod) -> dict[str, int]:
    """The check processes by pod, once every agent knows that the round has started: from then on it is the check's."""
    for pod in pods:
        said(world, pod, "preflight started")
    return {pod.name: checking(world, pod) for pod in pods}


def _command(pid: int) -> bytes:
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_bytes() if path.exists() else b""


def passed(pod: Pod) -> list[str]:
    return [line for line in pod.log().splitlines() if 'event="preflight passed"' in line]


def said(world: World, pod: Pod, text: str) -> None:
    eventually(lambda: text in pod.log(), deadline_s=DEADLINE_S, what=f"{pod.name}: {text}", describe=world.describe)


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


def test_a_node_whose_check_crashes_ends_and_the_others_go_on_with_another(world: World) -> None:
    a, b, c = start(world, "a", "b", "c")
    world.announce(1, a, b, c)
    os.kill(checking(world, b), signal.SIGKILL)
    words = verdict(b)
    assert words | {"kind": "preflight", "nodes": ["node-b"], "exitCode": 71} == words
    assert "node node-b (node rank 1): its check process died of SIGKILL" in words["message"]
    assert b.last_words()["generation"] == 1
    said(world, a, 'event="preflight failed"')
    assert [pod.process.poll() for pod in (a, c)] == [None, None]
    (d,) = start(world, "d")
    world.announce(2, a, d, c)
    assert world.await_step(world=3)["generation"] == 2
    assert world.log()[0]["generation"] == 2, "nothing was trained before"


def test_a_frozen_node_is_named_by_another(world: World) -> None:
    a, b, c = start(world, "a", "b", "c")
    world.announce(1, a, b, c, host=2)
    all_checking(world, a, b, c)
    frozen = b.freeze()
    words = verdict(a)
    assert words["nodes"] == ["node-b"]
    assert "node node-b (node rank 1): did not answer" in words["message"]
    assert (b.process.poll(), c.process.poll()) == (None, None), "one speaker is enough"
    (d,) = start(world, "d")
    world.announce(2, d, c, host=1)
    assert world.await_step(world=2)["generation"] == 2
    thaw(frozen)


def test_a_frozen_host_of_the_store_is_named_too(world: World) -> None:
    a, b, c = start(world, "a", "b", "c")
    world.announce(1, a, b, c, host=0)
    all_checking(world, a, b, c)
    frozen = a.freeze()
    words = verdict(b)
    assert words["nodes"] == ["node-a"]
    assert "the store that it hosts stopped answering" in words["message"]
    assert c.process.poll() is None
    thaw(frozen)


def test_a_check_that_stops_while_it_measures_is_named_in_time(world: World) -> None:
    a, b, c = start(world, "a", "b", "c")
    world.announce(1, a, b, c)
    pids = all_checking(world, a, b, c)
    eventually(
        lambda: _connected(pids["c"]),
        interval_s=0.01,
        deadline_s=DEADLINE_S,
        what="c measures",
        describe=world.describe,
    )
    os.kill(pids["c"], signal.SIGSTOP)
    words = verdict(c)
    assert words["nodes"] == ["node-c"]
    assert "stopped answering" in words["message"]
    assert (a.process.poll(), b.process.poll()) == (None, None)


def _connected(pid: int) -> bool:
    """Whether the process has a connection: it has been told to measure."""
    try:
        return any(os.readlink(path).startswith("socket:") for path in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def test_a_gang_that_no_pair_of_is_fast_enough_fails_and_names_nobody(world: World) -> None:
    a, b, c = start(world, "a", "b", "c", DEEPSEEKJOB_PREFLIGHT_MIN_MBPS="9999999")
    world.announce(1, a, b, c)
    words = verdict(a)
    assert words["nodes"] == []
    assert "lower preflight.minBandwidthMbps" in words["message"]
    assert (b.process.poll(), c.process.poll()) == (None, None)
