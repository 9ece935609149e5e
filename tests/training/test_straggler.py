"""One of two ranks is slowed down: node rank 0 names it, with its pod; and nobody as long as both are alike."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from deepseek_trainer.agent.settings import STRAGGLER_WINDOW_S
from deepseek_trainer.distributed.waits import MEASURED_EVERY, Waits
from deepseek_trainer.pulse import PulseWriter, read
from support.agents import DEADLINE_S, Pod, World
from support.eventually import eventually
from support.runs import run_config
from support.slowed import half_stopped
from support.zygote import fork_of

pytestmark = [pytest.mark.training, pytest.mark.timeout(600)]

_OWN_WORK = re.compile(r'^deepseekjob_rank_own_work_seconds\{.*rank="(\d+)"\} (\S+)$', re.MULTILINE)


def own_work_s(pod: Pod) -> dict[int, float]:
    """Seconds of the last step, by rank, as the pod's metrics have them."""
    return {int(rank): float(seconds) for rank, seconds in _OWN_WORK.findall(pod.get("/metrics").decode())}


def test_a_slow_rank_is_named_until_it_is_fast_again(world: World, store_folder: Path, data_cache: Path) -> None:
    config = run_config(
        checkpoints=world.folder / "checkpoints",
        data_cache=data_cache,
        every_steps=0,
        steps=100_000,
        globalBatchSize=8,
        microBatchSize=4,
        sequenceLength=128,
    )
    config["checkpoint"] = None
    pods = [world.start_trainer(f"pod-{rank}", config, **{STRAGGLER_WINDOW_S: "1"}) for rank in range(2)]
    world.announce(1, *pods)

    def stragglers() -> list[dict[str, Any]] | None:
        said: list[dict[str, Any]] | None = pods[0].progress().get("stragglers")
        return said

    def await_stragglers(wanted: list[int], when: str) -> list[dict[str, Any]]:
        def named() -> list[list[dict[str, Any]]]:
            said = stragglers()
            return [said] if said is not None and [slow["rank"] for slow in said] == wanted else []

        began = time.monotonic()
        (said,) = eventually(
            named,
            deadline_s=DEADLINE_S,
            what=f"{wanted} named",
            describe=lambda: f"{stragglers()} {own_work_s(pods[0])} {own_work_s(pods[1])} {world.describe()}",
        )
        print(f"{when}: {wanted} named after {time.monotonic() - began:.1f} s, {said}")
        return said

    await_stragglers([], "both alike")
    print(f"own work in a step, both alike: {own_work_s(pods[0]) | own_work_s(pods[1])}")
    assert own_work_s(pods[0]).keys() == {0}, "a pod tells of its own ranks"
    assert "stragglers" not in pods[1].progress(), "node rank 0 judges"

    (stand_in,) = pods[1].children()
    with half_stopped(fork_of(stand_in) or stand_in):
        (slow,) = await_stragglers([1], "half stopped")
        assert slow["pod"] == pods[1].name
        assert slow["busySeconds"] > slow["medianSeconds"]
    await_stragglers([], "it runs freely")
    assert all(pod.process.poll() is None for pod in pods), "nothing is restarted for it"


def test_where_a_collective_does_not_block_the_host_few_steps_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, waited_for_device = 0, list[int]()
    fake = SimpleNamespace(synchronize=lambda: waited_for_device.append(step))
    monkeypatch.setattr(torch, "get_device_module", lambda device: fake)
    pulse = PulseWriter(tmp_path / "pulse")
    waits = Waits(pulse, torch.device("cuda", 0))
    measured = []
    for step in range(2 * MEASURED_EVERY + 1):
        waits.begin(step)
        with waits.collective():
            pass
        pulse.stepped(step)
        seen = read(tmp_path / "pulse")
        if seen is not None and math.isfinite(seen.busy_s):
            measured.append(step)
    assert measured == [0, MEASURED_EVERY, 2 * MEASURED_EVERY]
    assert waited_for_device == sorted(2 * measured), "before and after the collective, and in no other step"
