"""Checkpoints in memory: real pods that lose a process, a pod and their number while the shards on the volume are useless."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from deepseek_trainer.agent import process
from deepseek_trainer.checkpoint import layout
from support.agents import DEADLINE_S, Pod, World, thaw
from support.eventually import eventually
from support.runs import run_config

pytestmark = [pytest.mark.training, pytest.mark.timeout(600)]

EVERY = 30


class Job:
    """Pods with memory of their own, and the volume that they share."""

    def __init__(self, world: World, data_cache: Path) -> None:
        self.world, self.volume = world, world.folder / "checkpoints"
        self._data_cache = data_cache

    def pod(self, name: str) -> Pod:
        config: dict[str, Any] = run_config(
            checkpoints=self.volume, data_cache=self._data_cache, every_steps=EVERY, steps=100_000
        )
        config["checkpoint"]["memory"] = {"directory": str(self.memory(name)), "bytes": 2**30}
        return self.world.start_trainer(name, config, DEEPSEEKJOB_HANG_FLOOR_S="300")

    def memory(self, name: str) -> Path:
        return self.world.folder / f"{name}-memory"

    def stopped(self, *pods: Pod) -> int:
        """Stops all ranks once a checkpoint is kept twice, and makes the volume useless; the checkpoint's step."""
        while True:
            step: int = self._once("a checkpoint in the memory of two nodes", lambda: self._kept_twice(pods))
            ranks = [pid for pod in pods for pid in pod.trainers()]
            for rank in ranks:
                os.kill(rank, signal.SIGSTOP)
            self._once("ranks that stand still", lambda ranks=ranks: {process.state(rank) for rank in ranks} == {"T"})
            if self._kept_twice(pods) == step:
                break
            thaw(ranks)  # until they had stopped, the next one was committed, or one part of this made room for it
        for shard in self.volume.glob("step-*/__*.distcp"):
            shard.write_bytes(b"\0" * shard.stat().st_size)
        return step

    def _kept_twice(self, pods: tuple[Pod, ...]) -> int:
        """Step of the newest checkpoint, if every one of its shards is in the memory of two pods."""
        for step, path in layout.checkpoints(self.volume):
            if (path / layout.COMMITTED).exists():
                shards = {entry["sha256"] for entry in layout.read_manifest(path).files.values()}
                return step if all(self._copies(sha256, pods) == 2 for sha256 in shards) else 0
        return 0

    def _copies(self, sha256: str, pods: tuple[Pod, ...]) -> int:
        return sum((self.memory(pod.name) / sha256).exists() for pod in pods)

    def started(self, pod: Pod, step: int | None, **wanted: int) -> dict[str, int]:
        """Bytes by tier of the start that went on from this step (None: any), once it makes steps."""

        def probe() -> dict[str, Any]:
            said = pod.progress()
            resumed, made = said.get("resumedStep"), int(said.get("step") or 0)
            met = all(said.get(name) == value for name, value in wanted.items()) and step in (resumed, None)
            return said if met and resumed is not None and made > resumed else {}

        said: dict[str, Any] = self._once(f"steps after {step} with {wanted}", probe)
        return dict(said["restoredBytes"])

    def _once(self, what: str, probe: Any) -> Any:
        return eventually(probe, deadline_s=DEADLINE_S, what=what, describe=self.world.describe)


def kill(*pods: Pod) -> None:
    for rank in [pid for pod in pods for pid in pod.trainers()]:
        with contextlib.suppress(ProcessLookupError):  # its agent has heard of the first one already
            os.kill(rank, signal.SIGKILL)


def test_restarts_in_place_replaced_pods_and_resizes_need_no_shard_of_the_volume(
    world: World, store_folder: Path, data_cache: Path
) -> None:
    job = Job(world, data_cache)
    first, second, third, fourth = (job.pod(name) for name in ("first", "second", "third", "fourth"))
    world.announce(1, first, second)

    step = job.stopped(first, second)
    kill(first, second)
    tiers = job.started(first, step, round=1)
    assert tiers["memory"] > 0
    assert (tiers["peer"], tiers["volume"]) == (0, 0)

    step = job.stopped(first, second)
    second.kill()
    world.announce(2, first, third)
    tiers = job.started(first, step, generation=2)
    assert min(tiers["memory"], tiers["peer"]) > 0, "the new pod's part is with its neighbour"
    assert tiers["volume"] == 0

    step = job.stopped(first, third)
    for kept in job.memory("first").iterdir():  # both parts, here; the neighbour has both, too
        kept.write_bytes(b"\0" * kept.stat().st_size)
    kill(first, third)
    tiers = job.started(first, step, generation=2, round=1)
    assert min(tiers["memory"], tiers["peer"]) > 0
    assert tiers["volume"] == 0
    passed_over = "passed over in memory __0_0.distcp: "
    eventually(lambda: passed_over in first.log(), deadline_s=DEADLINE_S, what=passed_over, describe=world.describe)

    world.announce(3, first, third, fourth, planned=True)
    tiers = job.started(first, None, generation=3)
    assert tiers["volume"] == 0
