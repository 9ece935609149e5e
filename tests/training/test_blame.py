"""Who is blamed when a process is killed, and a peer's agent is quicker to see what follows than its own is to see that."""

from __future__ import annotations

import os
import signal

import pytest
from support.agents import Pod, World, thaw

pytestmark = [pytest.mark.training, pytest.mark.timeout(600)]

LOSES_ITS_PEER = """
import os, pathlib, sys, time
if not pathlib.Path(sys.argv[1], "again").exists():
    print("ready", flush=True)
    while not pathlib.Path(sys.argv[1], "lost").exists():
        time.sleep(0.01)
    from deepseek_trainer import __main__, errors
    error = errors.{error}("a peer was lost: connection reset")
    sys.exit(__main__._failed(error.exit_code, error, os.environ))
"""
IS_KILLED = """
import os, pathlib, sys, time
if not pathlib.Path(sys.argv[1], "again").exists():
    print("ready", flush=True)
    time.sleep(600)
"""


def test_evidence_that_is_seen_late_counts_nonetheless(world: World) -> None:
    """The agent of the killed process stands still until its peer has ended the round, and then hears of both at once."""
    a, b = gang(world, "UnavailableError")
    os.kill(b.process.pid, signal.SIGSTOP)
    os.kill(b.trainers()[0], signal.SIGKILL)
    (world.folder / "lost").touch()
    world.await_log(a, 'event="training process failed"')
    world.await_log(a, "event=waiting")  # for b, in the next round
    (world.folder / "again").touch()
    thaw([b.process.pid])
    assert [pod.wait() for pod in (a, b)] == [0, 0], world.describe()
    assert "exit_code=69" in a.log()
    assert "signal=SIGKILL" in b.log()
    assert 'event="round follows a process failure"' in a.log()
    assert f"pod={b.name}" in a.log()


def test_a_lost_peer_that_nobody_explains_is_started_again(world: World) -> None:
    """Both agents live, so nothing is gained by another pod."""
    a, b = gang(world, "PeerLostError")
    (world.folder / "lost").touch()
    world.await_log(a, 'event="training process failed"')
    (world.folder / "again").touch()
    assert [pod.wait() for pod in (a, b)] == [0, 0], world.describe()
    assert "exit_code=69" in a.log()


def gang(world: World, error: str) -> tuple[Pod, Pod]:
    scripts = {"a": LOSES_ITS_PEER.format(error=error), "b": IS_KILLED}
    pods = []
    for name, text in scripts.items():
        path = world.folder / f"{name}.py"
        path.write_text(text)
        pods.append(world.start(name, str(path), str(world.folder), DEEPSEEKJOB_PROC_PER_NODE="1"))
    a, b = pods
    world.announce(1, a, b)
    for pod in pods:
        world.await_log(pod, "ready")
    return a, b
