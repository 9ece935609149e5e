"""Parts made on real Ray nodes: whatever is killed, frozen or missing, what Ray leaves undone is left to the trainer.

So in both modes: parts of a preparation, and shards that are tokenised while others are trained on.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from deepseek_trainer.checkpoint import load
from deepseek_trainer.config import RunConfig
from deepseek_trainer.contract import Env
from deepseek_trainer.data.audit.proof import Verdict, prove
from deepseek_trainer.data.prepare import prepare
from deepseek_trainer.data.store import open_store
from deepseek_trainer.raycluster.executor import RayExecutor
from support import costly_rows, raywork
from support.eventually import eventually
from support.procs import Processes, start_training
from support.raynodes import RayCluster, RayNode
from support.raywork import Piece
from support.runs import run_config

pytestmark = [pytest.mark.training, pytest.mark.timeout(600)]

GCS = 24000
GRACE_S = 240.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    cluster = RayCluster(tmp_path_factory.mktemp("ray"), GCS)
    try:
        cluster.start(nodes=2)
        yield cluster
    finally:
        cluster.end()


@pytest.fixture
def environ(cluster: RayCluster) -> dict[str, str]:
    return {**cluster.environment(), "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}


def _pieces(folder: Path, count: int, how: Callable[[int], str] = lambda number: "well") -> list[Piece]:
    return [Piece(number, str(folder), how(number)) for number in range(count)]


def _lose(node: RayNode) -> None:
    pid = node.gcs_pid() if node.role == "head" else node.raylet_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def _made(pieces: list[Piece]) -> set[int]:
    """Which of them are there; each that is, is right."""
    there = [piece for piece in pieces if piece.path.exists()]
    assert all(piece.path.read_text() == str(piece.number) for piece in there)
    return {piece.number for piece in there}


def test_all_nodes_make_parts_and_leave_nothing_else(
    environ: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    pieces = _pieces(tmp_path, 16, lambda number: "slowly")
    RayExecutor(environ)(raywork.make, pieces)
    assert _made(pieces) == set(range(16))
    assert "prepared with ray parts=16 nodes=2" in caplog.text
    assert {path.suffix for path in tmp_path.iterdir()} == {".txt"}


def test_part_that_fails_is_left_and_one_whose_process_dies_is_made(
    environ: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pieces = _pieces(tmp_path, 4, lambda number: {1: "error", 2: "dies once"}.get(number, "well"))
    RayExecutor(environ)(raywork.make, pieces)
    assert _made(pieces) == {0, 2, 3}
    assert "ray left 1 of 4 parts to this process: ValueError: 1 can't be read" in caplog.text


def test_node_without_the_folder_makes_nothing(
    environ: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "touch", lambda self: None)  # as another machine would see the folder
    pieces = _pieces(tmp_path, 2)
    RayExecutor(environ)(raywork.make, pieces)
    assert _made(pieces) == set()
    assert "ray left 2 of 2 parts to this process: this node doesn't share the data cache" in caplog.text


def test_part_that_never_ends_is_waited_for_no_longer_than_allowed(
    environ: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pieces = _pieces(tmp_path, 3, lambda number: "never" if number == 1 else "well")
    RayExecutor(environ, part_s=20.0)(raywork.make, pieces)
    assert 1 not in _made(pieces)
    assert "waited 20 s for a part" in caplog.text


def test_head_that_nobody_answers_for_costs_seconds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pieces = _pieces(tmp_path, 2)
    RayExecutor({Env.RAY_HEAD: "127.0.0.9:24999"}, head_s=1.0)(raywork.make, pieces)
    assert _made(pieces) == set()
    assert "ray left 2 of 2 parts to this process: the head 127.0.0.9: Connection refused" in caplog.text


def test_store_is_the_one_that_is_prepared_without_ray(
    environ: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "texts").mkdir()
    for number in range(6):
        words = (f"word{number * k % 97} of file {number}" for k in range(2000))
        (tmp_path / "texts" / f"{number}.txt").write_text("\n".join(words))
    spec = {"task": "pretrain", "tokenizer": {"kind": "bpe", "vocabSize": 512}, "training": {"steps": 1}}
    stores = []
    for cache, execute in (("without", None), ("with", RayExecutor(environ))):
        data = {"path": str(tmp_path / "texts")}
        config = {"job": "ray", "trainer": spec, "data": data, "dataCache": str(tmp_path / cache)}
        stores.append(open_store(prepare(RunConfig.model_validate(config), environ, execute)).info)
    assert "prepared with ray parts=6" in caplog.text
    assert stores[0] == stores[1]


@pytest.mark.parametrize("victim", ["a raylet", "the head"])
def test_killed_while_parts_are_made(
    cluster: RayCluster, environ: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture, victim: str
) -> None:
    """The raylet beside the driver is killed below."""
    head, _, far = cluster.nodes
    node = {"a raylet": far, "the head": head}[victim]
    starts = [each.starts() for each in cluster.nodes]
    pieces = _pieces(tmp_path, 12, lambda number: "well" if number < 2 else "once told to")

    def kill_midway() -> None:
        eventually(lambda: len(_made(pieces)) >= 2, deadline_s=GRACE_S)
        _lose(node)
        if node is far:
            pieces[0].told.touch()

    killer = threading.Thread(target=kill_midway)
    killer.start()
    RayExecutor(environ)(raywork.make, pieces)
    killer.join()
    made = _made(pieces)
    assert len(made) >= 2
    if node is far:
        assert made == set(range(12))
    else:  # what it says first depends on who notices first
        said = re.search(r"ray left (\d+) of 12 parts to this process: ", caplog.text)
        assert said is not None, caplog.text
        assert int(said[1]) >= 12 - len(made), "a made part may be unsaid, a said one not unmade"
    pieces[0].told.touch()
    for piece in pieces:  # what the trainer does with what is left
        raywork.make(piece)
    assert _made(pieces) == set(range(12))
    for each, before in zip(cluster.nodes, starts, strict=True):
        if each is node or node is head:
            each.await_started(before + 1)


def test_shards_tokenised_ahead_are_trained_once_whatever_is_lost(
    cluster: RayCluster, environ: dict[str, str], tmp_path: Path
) -> None:
    head, near, _ = cluster.nodes
    draw = random.Random(0)
    texts = (" ".join(f"w{draw.randrange(200)}" for _ in range(200)) for _ in range(1600))
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    checkpoints, cache = tmp_path / "checkpoints", tmp_path / "cache"

    def start(ranks: int, run: str, steps: int, module: str, **environ: str) -> Processes:
        config = run_config(
            checkpoints=checkpoints, data_cache=cache, steps=steps, every_steps=5, globalBatchSize=16, microBatchSize=16
        )
        dynamic = {"mode": "Dynamic", "dynamic": {"shardBytes": 4096}, "audit": True}
        config["data"] = {"path": str(tmp_path / "data.jsonl"), **dynamic}
        return start_training(config, world_size=ranks, folder=tmp_path / run, environ=environ, module=module)

    def ledger() -> dict[str, Any]:
        found = load.newest_whole(checkpoints)
        assert found is not None
        return found.manifest.ledger

    def shards() -> dict[str, int]:
        """Those that are tokenised, and their inodes."""
        return {path.name: path.stat().st_ino for path in cache.glob(".*/*.npz")}

    slow = {costly_rows.ROW_S: "1,1"}
    running = start(2, "with-ray", 1000, "support.costly_rows", **environ, **slow)

    def lose_while_shards_are_made(node: RayNode, more: int) -> None:
        there = len(shards())
        eventually(lambda: len(shards()) >= there + more, deadline_s=240, describe=running.outputs, what="more shards")
        _lose(node)

    lose_while_shards_are_made(near, 16)
    lose_while_shards_are_made(head, 16)
    running.send(signal.SIGTERM)
    assert [rank.exit_code for rank in running.wait()] == [75, 75], running.outputs()
    assert "Traceback" not in running.output(0), "what is lost of Ray is one line"
    stopped, leased = ledger()["step"], ledger()["low"] + 4
    ahead = shards()
    assert len(ahead) > leased + 16, "more than the ranks have had"

    ended = start(1, "without", stopped + 30, "deepseek_trainer").wait()[0]

    assert ended.exit_code == 0, ended.output
    assert ledger()["low"] > leased, "it has come to those that Ray has made"
    assert ahead.items() <= shards().items(), "and has made none of them again"
    assert prove(checkpoints).verdict is Verdict.PROVEN, prove(checkpoints)
