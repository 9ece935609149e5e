"""Mode Dynamic under faults: a stream grows while processes and pods are killed and the world is resized.

The audit proves that every row of every shard that arrived was trained once; and it sees each of the lies that are told to it.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
from deepseek_trainer.checkpoint import layout
from deepseek_trainer.config import RunConfig
from deepseek_trainer.data import preparation, sources
from deepseek_trainer.data.audit.__main__ import main
from deepseek_trainer.data.audit.proof import Verdict, prove
from deepseek_trainer.data.audit.records import LeaseRecord, file_of
from deepseek_trainer.data.dynamic.leases import Lease
from deepseek_trainer.data.dynamic.shards import Cutting, open_shard
from deepseek_trainer.data.parts import Part
from deepseek_trainer.data.sources import Source, file_in
from support.agents import DEADLINE_S, Pod, World
from support.audits import commit, rewrite_runs
from support.eventually import eventually
from support.runs import run_config

pytestmark = [pytest.mark.training, pytest.mark.timeout(900)]

BATCH = 7
LINES = 150
"""Of a file: some twenty steps."""
SHARD_BYTES = 4096
SYLLABLES = ("ba", "ce", "di", "fo", "gu", "hal", "jen", "kip", "lom", "nur", "ra", "se", "ti", "vo", "zu")


@dataclass
class Arrivals:
    """A stream: files come by a rename, their names in the order of arrival."""

    folder: Path
    files: int = 0
    _random: Random = field(default_factory=lambda: Random(7))

    def add(self, count: int) -> None:
        self.folder.mkdir(exist_ok=True)
        for _ in range(count):
            words = ["".join(self._random.choices(SYLLABLES, k=3)) for _ in range(300)]
            lines = [" ".join(self._random.choices(words, k=8)) for _ in range(LINES)]
            path = self.folder / f"{self.files:04}.txt"
            path.with_suffix(".tmp").write_text("\n".join(lines))
            path.with_suffix(".tmp").rename(path)
            self.files += 1

    def end(self) -> None:
        (self.folder / "_SUCCESS").touch()

    def rows(self, config: dict[str, Any], fingerprint: str) -> list[int]:
        """To be trained, of each shard that has arrived; counted anew."""
        run = RunConfig.model_validate(config)
        wanted = preparation.plan(run, {}, SHARD_BYTES, Source(str(self.folder), ()))
        files = tuple(file_in(path, self.folder) for path in sorted(self.folder.glob("*.txt")))
        pieces = enumerate(sources.pieces(Source(str(self.folder), files), SHARD_BYTES))
        parts = [Part(number, piece, wanted.reading, str(wanted.work)) for number, piece in pieces]
        return [open_shard(Lease(0), part, Cutting.of(run, fingerprint)).rows.training for part in parts]


@pytest.fixture
def arrivals(world: World) -> Arrivals:
    return Arrivals(world.folder / "stream")


@pytest.fixture
def config(world: World, arrivals: Arrivals) -> dict[str, Any]:
    config = run_config(
        checkpoints=world.folder / "checkpoints",
        data_cache=world.folder / "stores",
        every_steps=5,
        steps=100_000,
        globalBatchSize=BATCH,
    )
    config["trainer"]["tokenizer"] = {"vocabSize": 512}
    dynamic = {"stream": True, "shardBytes": SHARD_BYTES}
    config["data"] = {"path": str(arrivals.folder), "mode": "Dynamic", "dynamic": dynamic, "audit": True}
    return config


def test_kills_and_resizes_lose_and_repeat_nothing_of_a_stream_that_grows(
    world: World, config: dict[str, Any], arrivals: Arrivals
) -> None:
    """2 -> 3 -> 1 workers; the first world loses a process, the second one two of its pods."""
    first, second, third = (world.start_trainer(name, config) for name in ("first", "second", "third"))
    made = 0

    def goes_on(what: str, generation: int, round_: int = 0) -> None:
        """Waits for steps beyond all that were made before."""
        nonlocal made
        made = eventually(
            lambda: beyond(first, generation, round_, made), what=what, deadline_s=DEADLINE_S, describe=world.describe
        )

    arrivals.add(2)
    world.announce(1, first, second)
    goes_on("steps of two workers", 1)
    os.kill(second.trainers()[0], signal.SIGKILL)
    arrivals.add(2)
    goes_on("steps after a process was killed", 1, 1)

    arrivals.add(2)
    world.announce(2, first, second, third, planned=True)
    goes_on("steps of three workers", 2)
    for lost in (second, third):
        lost.kill()
    arrivals.add(2)
    world.announce(3, first)
    goes_on("steps of the one that is left", 3)
    arrivals.add(1)
    arrivals.end()
    assert first.wait() == 0, first.log()[-3000:]

    folder = world.folder / "checkpoints"
    proof = prove(folder)
    print(json.dumps(proof.to_json()))
    assert proof.verdict is Verdict.PROVEN, proof
    assert (proof.lost, proof.repeated, proof.audited) == (0, 0, proof.step)
    rows = arrivals.rows(config, layout.read_manifest(layout.checkpoints(folder)[0][1]).ledger["fingerprint"])
    assert (proof.shards, proof.samples) == ({"whole": len(rows), "open": 0}, sum(rows))
    assert proof.starts >= 4
    said = first.last_words()
    assert (said["chain"], said["position"]) == (proof.chain, proof.samples)
    for lie in (another_row, another_ledger):
        undo = lie(folder)
        assert main([str(folder)]) == 1, lie
        undo()
    assert main([str(folder)]) == 0


def beyond(pod: Pod, generation: int, round_: int, made: int) -> int:
    assert pod.process.poll() is None, "it has ended"
    said = pod.progress()
    step = int(said.get("step") or 0)
    return step if (said["generation"], said["round"]) == (generation, round_) and step > made + 6 else 0


def another_row(folder: Path) -> Callable[[], object]:
    """One run of the last start is put down as one row shorter, with right checksums; answers what puts it back."""
    path = file_of(folder / layout.AUDIT, layout.starts(folder)[-1].start, 0)
    before = path.read_bytes()

    def shorter(records: list[LeaseRecord]) -> list[LeaseRecord]:
        run, *others = records[0].runs
        changed = LeaseRecord(records[0].step, (run._replace(stop=run.stop - 1), *others), records[0].cut)
        return [changed, *records[1:]]

    rewrite_runs(path, shorter)
    return lambda: path.write_bytes(before)


def another_ledger(folder: Path) -> Callable[[], object]:
    """The checkpoint's ledger is past a shard more."""
    path = layout.checkpoints(folder)[0][1]
    before = layout.read_manifest(path).to_json()
    commit(path, before | {"ledger": before["ledger"] | {"low": before["ledger"]["low"] + 1}})
    return lambda: commit(path, before)
