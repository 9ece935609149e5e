"""How long a fault stops training: our agents against plain torchrun with its c10d rendezvous, in one run.

Both sides start the same script (one all-reduce and one saved step each 50 ms) with three agents of one process over
gloo on this machine. What is measured: seconds from the fault to the next step that a newly started world of the full
size has made, median of the repetitions. Both pay for what a fault costs: torch's import for a process that is
started anew (ours once more with prewarming), for a replacement also its agent's.

    rank process killed          SIGKILL of one training process; all agents live
    agent killed, 3 -> 2         an agent and its process at once; it hosts nothing
    replacement joins, 2 -> 3    from the start of a new agent, while two train; and how long these stood still for it
    node rank 0 killed, 3 -> 2   the agent that hosts the store, and its process

torchrun has short timeouts, and the variable that keeps a replacement from deadlocking (see support.torchrun); without
the variable only the replacement is tried, and the better way counts. In the operator's place the bench writes the
membership files, after a delay that stands for what a real kubelet needs to show a changed annotation as a file. What
Kubernetes needs to say that a pod is gone is in neither side.

Prints a table and ends with one line: `ahead …` or `behind in …`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from support.agents import AgentProcess, Pod, World
from support.eventually import eventually
from support.recovery_table import Row, Try, decided, last_line, table
from support.torchrun import OWN_STORES, TorchrunWorld

PROCESS, AGENT, JOIN, PAUSE, HOST = (
    "rank process killed",
    "agent killed, 3 -> 2",
    "replacement joins, 2 -> 3",
    "  of which nobody trains",
    "node rank 0 (the store) killed, 3 -> 2",
)
C10D, C10D_OWN, OURS, PREWARMED = "c10d", "c10d, own stores (*)", "ours", "ours, prewarmed"
WAYS = (OURS, PREWARMED)
START_S = 180.0
MIN_BOUND_S, BOUND_STARTS = 30.0, 4.0
"""A fault without a step for so long is lost: in seconds, and in times that the world took to start (on a busy machine
torch's import alone may take half a minute)."""
SETTLE_S = 1.0
"""Of steps before a fault, so that whatever a start leaves to do is done."""

Tries = dict[tuple[str, str], list[Try]]


def wait_for_step(world: World, agents: Sequence[AgentProcess], size: int, since: float, bound_s: float) -> Try:
    """Waits for a step of a world of that size whose processes were started after `since` (Unix seconds)."""
    end = time.time() + bound_s
    while time.time() < end:
        for line in newest(world.shared / "log.jsonl"):
            if line["world"] == size and line["began"] > since:
                return Try(line["time"] - since)
        if all(agent.process.poll() is not None for agent in agents):
            return Try(bound_s, "job lost")
        time.sleep(0.05)
    return Try(bound_s, "no step")


def pause(world: World, since: float) -> Try:
    """How long there was no step before the first one of processes that were started after `since`."""
    times = [(line["time"], line["began"] > since) for line in world.log()]
    return next(Try(time - before) for (before, _), (time, is_new) in pairwise(times) if is_new)


def newest(log: Path) -> Iterator[dict[str, Any]]:
    """The last dozen steps, oldest first."""
    if not log.exists():
        return
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 4096))
        lines = stream.read().splitlines()[-12:]
    yield from (json.loads(line) for line in lines if line.startswith(b"{") and line.endswith(b"}"))


class Bench:
    """The stories of both sides: each starts a world and lets faults happen to it, one after the other."""

    def __init__(self, folder: Path, *, repeats: int, delay_s: float) -> None:
        self._folder = folder
        self._repeats = repeats
        self._bound_s = MIN_BOUND_S
        self._delay_s = delay_s
        self._numbers = count(1)
        self.tries: Tries = defaultdict(list)

    def run(self) -> None:
        """All stories in turns, until more of one can't change its medians."""
        for _ in range(self._repeats):
            self.c10d()
            if not decided(self.tries[C10D, JOIN], self._repeats):
                self.c10d_as_it_comes()
            self.ours(OURS)
            self.ours(PREWARMED)

    def rows(self) -> list[Row]:
        """What was found. A fault that the other side never lived to see is no row."""
        found = [
            Row(
                fault,
                {way: tries for way in (C10D_OWN, C10D) if (tries := self.tries[way, fault])},
                {way: tries for way in WAYS if (tries := self.tries[way, fault])},
            )
            for fault in (PROCESS, AGENT, JOIN, PAUSE, HOST)
        ]
        return [row for row in found if row.theirs]

    def _note(self, way: str, fault: str, result: Try) -> bool:
        """Whether the job goes on."""
        self.tries[way, fault].append(result)
        print(f"  {way:22} {fault:40} {f'{result.seconds:.1f} s {result.lost}'}", flush=True)
        return not result.lost

    def _home(self) -> Path:
        home = self._folder / f"story-{next(self._numbers)}"
        home.mkdir()
        return home

    # -- torchrun ------------------------------------------------------------------------------------------

    def c10d(self) -> None:
        with closing(TorchrunWorld(self._home(), **OWN_STORES)) as world:
            host, second, third = agents = [world.join() for _ in range(3)]
            self._up(world, agents, 3)
            since = time.time()
            os.kill(second.children()[0], signal.SIGKILL)
            if not self._note(C10D_OWN, PROCESS, self._wait(world, agents, 3, since)):
                return
            time.sleep(SETTLE_S)
            since = time.time()
            third.kill()
            if not self._note(C10D_OWN, AGENT, self._wait(world, [host, second], 2, since)):
                return
            time.sleep(SETTLE_S)
            since = time.time()
            fourth = world.join()
            if not self._joined(C10D_OWN, world, since, self._wait(world, [host, second, fourth], 3, since)):
                return
            time.sleep(SETTLE_S)
            since = time.time()
            host.kill()
            self._note(C10D_OWN, HOST, self._wait(world, [second, fourth], 2, since))

    def c10d_as_it_comes(self) -> None:
        """Two start, and there is room for a third, who joins them."""
        with closing(TorchrunWorld(self._home())) as world:
            agents = [world.join() for _ in range(2)]
            self._up(world, agents, 2)
            since = time.time()
            agents.append(world.join())
            self._joined(C10D, world, since, self._wait(world, agents, 3, since))

    # -- ours ----------------------------------------------------------------------------------------------

    def ours(self, way: str) -> None:
        environ = {"DEEPSEEKJOB_MAX_PROCESS_RESTARTS": "100", "OMP_NUM_THREADS": "1"}
        if way == PREWARMED:
            environ |= {"DEEPSEEKJOB_PREWARM": "1"}
        with closing(World(self._home())) as world:
            first, second, third = (world.start(f"pod-{index}", **environ) for index in range(3))
            world.announce(1, first, second, third)
            self._up(world, [first, second, third], 3)
            since = time.time()
            os.kill(second.children()[0], signal.SIGKILL)
            if not self._note(way, PROCESS, self._wait(world, [first, second, third], 3, since)):
                return
            time.sleep(SETTLE_S)
            since = time.time()
            third.kill()
            if not self._announced(way, AGENT, world, 2, since, first, second):
                return
            time.sleep(SETTLE_S)
            since = time.time()
            fourth = world.start("pod-3", **environ)
            ready(fourth, self._bound_s)
            if not self._announced(way, JOIN, world, 3, since, first, second, fourth, planned=True):
                return
            time.sleep(SETTLE_S)
            since = time.time()
            first.kill()
            self._announced(way, HOST, world, 4, since, second, fourth)

    def _announced(
        self, way: str, fault: str, world: World, generation: int, since: float, *members: Pod, planned: bool = False
    ) -> bool:
        time.sleep(self._delay_s)
        world.announce(generation, *members, planned=planned)
        found = self._wait(world, members, len(members), since)
        return self._joined(way, world, since, found) if fault == JOIN else self._note(way, fault, found)

    def _joined(self, way: str, world: World, since: float, found: Try) -> bool:
        """Who waits for a newcomer trains on meanwhile, or doesn't: two figures."""
        self._note(way, JOIN, found)
        return self._note(way, PAUSE, found if found.lost else pause(world, since))

    def _wait(self, world: World, agents: Sequence[AgentProcess], size: int, since: float) -> Try:
        return wait_for_step(world, agents, size, since, self._bound_s)

    def _up(self, world: World, agents: Sequence[AgentProcess], size: int) -> None:
        began = time.time()
        started = wait_for_step(world, agents, size, 0.0, START_S)
        self._bound_s = max(MIN_BOUND_S, BOUND_STARTS * (time.time() - began))
        if started.lost:
            raise AssertionError(f"no start: {started.lost}\n{world.describe()}")
        time.sleep(SETTLE_S)


def ready(pod: Pod, deadline_s: float) -> None:
    """Waits until the pod passes its readiness probe: then the operator lets it join."""
    eventually(lambda: pod.get("/readyz"), deadline_s=deadline_s, what=f"{pod.name} is ready", describe=pod.log)


def main() -> int:
    options = argparse.ArgumentParser(description="Recoveries, ours beside torchrun's own.")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--delay-s", type=float, default=0.6, help="until a changed membership is in a pod's file")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench = Bench(Path(folder), repeats=given.repeats, delay_s=given.delay_s)
        bench.run()
    rows = bench.rows()
    print(
        f"3 agents x 1 process, gloo; median of {given.repeats}, seconds from the fault to the next step of the world"
    )
    print(table(rows, WAYS))
    print(f"(*) {' '.join(f'{name}={value}' for name, value in OWN_STORES.items())}")
    print(f"in ours: {given.delay_s} s before each change of a membership file, as a kubelet takes 0.2 to 0.6 s for it")
    print(last_line(rows, WAYS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
