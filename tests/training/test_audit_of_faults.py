"""Processes and whole pods are killed, the world is resized, epochs end: the audit proves that no sample was lost or repeated."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from deepseek_trainer.checkpoint import layout
from deepseek_trainer.data.audit.proof import Verdict, prove
from deepseek_trainer.data.audit.records import Record
from support import paced
from support.agents import DEADLINE_S, Pod, World
from support.audits import rewrite
from support.eventually import eventually
from support.runs import run_config

pytestmark = [pytest.mark.training, pytest.mark.timeout(900)]

STEPS = 160
STEP_S = 0.12
"""Until the last fault: a third of the steps is made by then, and the rest lasts while the test gets no processor."""
SYLLABLES = ("ba", "ce", "di", "fo", "gu", "hal", "jen", "kip", "lom", "nur", "ra", "se", "ti", "vo", "zu")


@pytest.fixture
def config(world: World) -> dict[str, Any]:
    """A corpus so small that a dozen steps go through it."""
    random = Random(7)
    corpus = world.folder / "corpus.txt"
    words = ["".join(random.choices(SYLLABLES, k=3)) for _ in range(800)]
    corpus.write_text("\n".join(" ".join(random.choices(words, k=8)) for _ in range(120)))
    config = run_config(
        checkpoints=world.folder / "checkpoints",
        data_cache=world.folder / "stores",
        every_steps=5,
        steps=STEPS,
        globalBatchSize=7,
    )
    config["trainer"]["tokenizer"] = {"vocabSize": 512}
    config["data"] = {"path": str(corpus), "audit": True}
    return config


def test_kills_and_resizes_lose_and_repeat_nothing(world: World, config: dict[str, Any]) -> None:
    """2 -> 3 -> 1 -> 2 workers; the first and the last world lose a process, the second one two of its pods."""
    gate = world.folder / "gate"
    paced.hold(gate, seconds=STEP_S)
    first, second, third, fourth = (
        world.start_trainer(name, config, **{paced.GATE: str(gate)}) for name in ("first", "second", "third", "fourth")
    )
    made = 0

    def goes_on(what: str, generation: int, round_: int = 0) -> None:
        """Waits for steps beyond all that were made before."""
        nonlocal made
        made = eventually(lambda: beyond(first, generation, round_, made), what=what, **patience(world))

    world.announce(1, first, second)
    goes_on("steps of two workers", 1)
    os.kill(second.trainers()[0], signal.SIGKILL)
    goes_on("steps after a process was killed", 1, 1)

    world.announce(2, first, second, third, planned=True)
    goes_on("steps of three workers", 2)
    for lost in (second, third):
        lost.kill()
    world.announce(3, first)
    goes_on("steps of the one that is left", 3)

    world.announce(4, first, fourth, planned=True)
    goes_on("steps of two workers again", 4)
    os.kill(first.trainers()[0], signal.SIGKILL)
    goes_on("steps after rank 0 was killed", 4, 1)
    assert made < STEPS, "it ended before the last fault; raise STEPS"
    gate.unlink()
    assert [first.wait(), fourth.wait()] == [0, 0]

    folder = world.folder / "checkpoints"
    proof = prove(folder)
    print(json.dumps(proof.to_json()))
    assert proof.verdict is Verdict.PROVEN, proof
    assert (proof.lost, proof.repeated, proof.audited, proof.step) == (0, 0, STEPS, STEPS)
    assert proof.complete >= 3
    assert proof.starts >= 6
    said = first.last_words()
    assert (said["chain"], said["position"], said["epoch"]) == (proof.chain, STEPS * 7, proof.complete)
    assert in_a_process(folder) == 0
    alter(folder)
    assert in_a_process(folder) == 1


def beyond(pod: Pod, generation: int, round_: int, made: int) -> int:
    assert pod.process.poll() is None, "it has ended"
    said = pod.progress()
    step = int(said.get("step") or 0)
    return step if (said["generation"], said["round"]) == (generation, round_) and step > made + 6 else 0


def patience(world: World) -> dict[str, Any]:
    describe: Callable[[], str] = world.describe
    return {"deadline_s": DEADLINE_S, "describe": describe}


def in_a_process(folder: Path) -> int:
    """Exit status of the command."""
    command = [sys.executable, "-m", "deepseek_trainer.data.audit", str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    return done.returncode


def alter(folder: Path) -> None:
    """One sample of the last start is put down as another one."""
    start = layout.starts(folder)[-1]
    path = folder / layout.AUDIT / start.start / "rank-00001.ids"

    def other(records: list[Record]) -> list[Record]:
        samples = records[0].samples.copy()
        samples[0] = samples[0] + 1 if samples[0] == 0 else samples[0] - 1
        return [replace(records[0], samples=samples), *records[1:]]

    rewrite(path, other)
