"""Mode Dynamic on real ranks: killed, resized, without data, with bad data. What was trained is proven by the audit."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from deepseek_trainer.checkpoint import load
from deepseek_trainer.data.audit.proof import Verdict, prove
from support.eventually import eventually
from support.procs import Processes, start_training
from support.runs import losses, report, run_config

pytestmark = [pytest.mark.training, pytest.mark.timeout(400)]


@dataclass
class Arriving:
    """A folder to which files are added, and a job that trains on it."""

    folder: Path

    def __post_init__(self) -> None:
        self.data.mkdir()
        self._rng = random.Random(0)
        self._files = 0

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def add(self, lines: int = 60, name: str = "") -> Path:
        target = self.data / (name or f"{self._files:03}.jsonl")
        self._files += 1
        hidden = self.data / f".{target.name}"
        words = [f"w{number}" for number in range(200)]
        texts = (" ".join(self._rng.choices(words, k=20)) for _ in range(lines))
        hidden.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return hidden.rename(target)

    def start(self, ranks: int, run: str, *, steps: int = 1000, **data: Any) -> Processes:
        config = run_config(
            checkpoints=self.checkpoints,
            data_cache=self.folder / "cache",
            steps=steps,
            every_steps=5,
            globalBatchSize=8,
        )
        config["data"] = {"path": str(self.data), "mode": "Dynamic", "validationFraction": 0.1, "audit": True, **data}
        return start_training(config, world_size=ranks, folder=self.folder / run)

    def await_report(self, running: Processes, holds: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        def found() -> dict[str, Any]:
            path = running.folder / "progress.json"
            said = report(running.folder) if path.exists() else {}
            return said if holds(said) else {}

        return eventually(found, deadline_s=100, describe=running.outputs, what=what)

    @property
    def ledger(self) -> dict[str, Any]:
        found = load.newest_whole(self.checkpoints)
        assert found is not None
        return found.manifest.ledger

    def require_proven(self) -> None:
        proof = prove(self.checkpoints)
        assert proof.verdict is Verdict.PROVEN, proof


@pytest.fixture
def job(tmp_path: Path) -> Arriving:
    return Arriving(tmp_path)


def test_killed_and_resized_it_trains_each_row_once(job: Arriving) -> None:
    for _ in range(3):
        job.add()
    running = job.start(2, "two", dynamic={"shardBytes": 4096})
    job.await_report(running, lambda said: said.get("step", 0) >= 12, "step 12")
    running.send(signal.SIGKILL)
    running.wait()

    running = job.start(3, "three", dynamic={"shardBytes": 4096})
    job.await_report(running, lambda said: said.get("step", 0) >= 24, "step 24")
    running.send(signal.SIGTERM, ranks=[2])
    assert [rank.exit_code for rank in running.wait()] == [75, 75, 75]
    stopped = job.ledger["step"]

    ended = job.start(1, "one", steps=stopped + 30, dynamic={"shardBytes": 4096}).wait()[0]

    assert ended.exit_code == 0, ended.output
    ledger, said = job.ledger, report(job.folder / "one")
    assert (ledger["step"], ledger["samples"]) == (stopped + 30, 8 * (stopped + 30))
    assert ledger["epoch"] >= 1, "it has come past the end of the source"
    assert (said["resumedStep"], said["chain"], said["epoch"]) == (stopped, ledger["chain"], ledger["epoch"])
    assert said["data"]["documents"] == 180
    assert said["validationLoss"] < losses((job.folder / "two" / "rank-0.log").read_text())[1]
    job.require_proven()


def test_a_stream_waits_is_told_to_end_and_is_trained_to_its_end(job: Arriving) -> None:
    stream = {"shardBytes": 4096, "stream": True}
    running = job.start(2, "two", dynamic=stream)
    job.await_report(running, lambda said: said.get("phase") == "waiting", "a wait for the first file")
    job.add()
    job.await_report(running, lambda said: said.get("phase") == "waiting" and said.get("step", 0) > 5, "the next wait")
    job.add()
    said = job.await_report(
        running, lambda said: said.get("phase") == "waiting" and said["step"] > 12, "the third wait"
    )
    running.send(signal.SIGTERM, ranks=[1])
    assert [rank.exit_code for rank in running.wait()] == [75, 75]
    assert job.ledger["step"] >= said["step"], "what was trained before the wait is saved"

    job.add(lines=7)
    (job.data / "_SUCCESS").touch()
    ended = job.start(1, "one", dynamic=stream).wait()[0]

    assert ended.exit_code == 0, ended.output
    ledger = job.ledger
    assert ledger["contents"]["documents"] == 127
    assert (ledger["files"]["count"], ledger["low"], ledger["open"], ledger["done"]) == (
        3,
        ledger["files"]["leases"],
        [],
        [],
    )
    assert report(job.folder / "one")["phase"] == "finished"
    job.require_proven()


def test_what_is_wrong_with_the_data_ends_all_ranks_with_its_name(job: Arriving) -> None:
    job.add(lines=10)
    broken = job.data / "001.jsonl"
    broken.write_text('{"text": "good"}\n{"text": "never ends\n')
    running = job.start(2, "broken", dynamic={"stream": True})
    ended = running.wait()
    assert [rank.exit_code for rank in ended] == [65, 65], running.outputs()
    assert f"{broken}, line 2: not JSON" in ended[0].output
    assert "Traceback" not in running.outputs()

    broken.unlink()
    running = job.start(2, "late", dynamic={"stream": True})
    job.await_report(running, lambda said: said.get("phase") == "waiting" and "step" in said, "steps")
    job.add(name="000-late.jsonl")
    late = running.wait()
    assert [rank.exit_code for rank in late] == [65, 65], running.outputs()
    assert "000-late.jsonl turned up late" in late[0].output
