"""How a pod ends: exit status, last words and what its log says, for each way that training can end."""

from __future__ import annotations

import json
import signal

import pytest
from support.agents import DEADLINE_S, PLAIN, SCRIPT, World
from support.eventually import eventually

pytestmark = [pytest.mark.training, pytest.mark.timeout(900)]


LOSES_ITS_PEER = """
import os, pathlib, signal, sys, time
note = pathlib.Path(__file__).with_suffix(".pid")
if os.environ["RANK"] == "1":
    note.with_suffix(".tmp").write_text(str(os.getpid()))
    note.with_suffix(".tmp").rename(note)
    os.kill(os.getpid(), signal.SIGKILL)
def is_dead(pid):
    try:
        return ") Z " in pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True  # the agent has looked already
while not note.exists() or not is_dead(note.read_text()):
    time.sleep(0.001)
sys.exit(69)
"""
"""Rank 1 is killed; rank 0 sees that (its peer is a zombie until the agent looks, and then gone) and says UNAVAILABLE.

In a pod that is no fork: there the processes are the agent's own children, and nobody else reaps them.
"""


def script(world: World, text: str) -> str:
    """A training script without torch, for endings that need no collectives."""
    path = world.folder / f"script-{len(world.pods)}.py"
    path.write_text(text)
    return str(path)


def test_endings_of_single_pods(world: World) -> None:
    """Side by side, because they wait. `done` is no fork: the command line as the container has it."""
    plain = script(world, "import os, sys\nprint('env', os.environ['RANK'], os.environ['WORLD_SIZE'], sys.argv[1:])")
    done = world.start("done", plain, "--flag", "-m", "x", DEEPSEEKJOB_PROC_PER_NODE="2", **PLAIN)
    config = world.start(
        "config",
        script(
            world,
            "import os, sys, time\nif os.environ['RANK'] == '0': time.sleep(600)\n"
            "sys.exit(print('model: no such preset', file=sys.stderr) or 78)",
        ),
        DEEPSEEKJOB_PROC_PER_NODE="2",
    )
    crash = world.start(
        "crash", script(world, "raise ValueError('bad ü ' + 'x' * 5000)"), DEEPSEEKJOB_MAX_PROCESS_RESTARTS="1"
    )
    victim = world.start(
        "victim",
        script(world, LOSES_ITS_PEER),
        DEEPSEEKJOB_PROC_PER_NODE="2",
        DEEPSEEKJOB_MAX_PROCESS_RESTARTS="0",
        **PLAIN,
    )
    nobody = world.start("nobody", plain, "--rendezvous-timeout-s", "3")
    nobody_early = world.start("early", "--rendezvous-timeout-s", "3", plain)
    wrong = world.start("wrong", "--no-such-option")
    for pod in (done, config, crash, victim, nobody):
        world.announce(1, pod)

    assert done.wait() == 0, done.log()
    for rank in (0, 1):
        assert f"[rank{rank}] env {rank} 2 ['--flag', '-m', 'x']" in done.log()
    assert done.last_words() | {"generation": 1, "nodeRank": 0, "pod": "done"} == done.last_words()
    assert nobody.wait() == 0  # what follows the script is the script's

    assert config.wait() == 78, config.log()
    assert config.last_words()["failure"] == {"rank": 1, "exitCode": 78, "message": "model: no such preset"}
    assert config.last_words()["processRestarts"] == 0

    assert crash.wait() == 1, crash.log()
    words = crash.last_words()
    assert words["failure"]["rank"] == 0
    assert words["failure"]["message"].endswith("xxx")
    assert words["processRestarts"] == 1
    assert len(crash.termination_log.read_bytes()) <= 4096
    assert crash.log().count("[rank0] Traceback") == 2

    assert victim.wait() == 1, victim.log()
    assert victim.last_words()["failure"] | {"rank": 1, "signal": "SIGKILL"} == victim.last_words()["failure"]

    assert nobody_early.wait() == 69, nobody_early.log()
    assert "a generation with pod early" in nobody_early.last_words()["failure"]["message"]
    assert wrong.wait() == 78
    assert "--no-such-option" in wrong.log()
    for pod in world.pods:
        assert "Traceback" not in "".join(line for line in pod.log().splitlines() if not line.startswith("[rank"))


def test_sigterm_is_forwarded_and_saved_states_are_told(world: World) -> None:
    body = "import signal, sys, time\n{handler}\nprint('ready', flush=True)\ntime.sleep(600)"
    saves = body.format(handler="signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))")
    saved = world.start("saved", script(world, saves))
    dies = world.start("dies", script(world, body.format(handler="")))
    deaf = body.format(handler="signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    ignores = world.start("ignores", script(world, deaf), DEEPSEEKJOB_TERMINATION_GRACE_S="1")
    waits = world.start("waits", script(world, saves))
    for pod in (saved, dies, ignores):
        world.announce(1, pod)
    for pod in (saved, dies, ignores):
        world.await_log(pod, "ready")
    eventually(lambda: waits.get("/healthz"), deadline_s=DEADLINE_S, describe=world.describe)
    for pod in world.pods:
        pod.signal(signal.SIGTERM)
    assert {pod.name: pod.wait() for pod in world.pods} == {"saved": 75, "dies": 143, "ignores": 143, "waits": 143}
    assert json.loads(saved.termination_log.read_bytes())["generation"] == 1


def test_sigterm_during_training_is_saved_by_all_ranks_together(world: World) -> None:
    a, b = (world.start(name, str(SCRIPT), str(world.shared), "100000", DEEPSEEKJOB_PROC_PER_NODE="1") for name in "ab")
    world.announce(1, a, b)
    world.await_step(world=2)
    for pod in (a, b):
        pod.signal(signal.SIGTERM)
    assert (a.wait(), b.wait()) == (75, 75), world.describe()
    assert a.last_words()["step"] == world.log()[-1]["step"]
