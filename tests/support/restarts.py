"""Processes of the trainer from their start to the first step, for the bench: two ranks, each a node of its own.

Before each start the kernel forgets what it keeps of the checkpoint's files, so that the volume is read and not a cache.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepseek_trainer import durable
from deepseek_trainer.checkpoint.verifier import forget
from support.ports import free_port

_TEXT = "the first step of a run and the one after it are made of the same words in another order"
NODES = 2


class Restarts:
    """A job that has made two steps and saved; each start is of a copy of what it has left."""

    def __init__(self, home: Path, memory: Path) -> None:
        """Args:
        home: on the disk to be measured.
        memory: a folder in memory.
        """
        self._home, self._memory = home, memory
        home.mkdir()
        words = _TEXT.split()
        self._text = home / "text.txt"
        self._text.write_text(
            "\n\n".join(" ".join(words[(i + j * j) % len(words)] for j in range(60)) for i in range(400))
        )
        self._start("job", steps=2)

    def from_scratch(self) -> float:
        """Seconds to the first step of a job that has no checkpoint."""
        return self._in_copy(None, steps=1)

    def from_volume(self) -> float:
        """The same, where no node has anything in memory."""
        return self._in_copy([], steps=3)

    def from_memory(self) -> float:
        """The same, where each node has its own part in memory."""
        return self._in_copy([0, 1], steps=3)

    def from_peer(self) -> float:
        """The same, where one node is new, and its neighbour has all."""
        return self._in_copy([0], steps=3)

    def _in_copy(self, nodes: Sequence[int] | None, *, steps: int) -> float:
        """One start.

        Args:
            nodes: those whose memory is as the job has left it; None: there is no checkpoint either.
        """
        copy = self._home / "copy"
        if nodes is not None:
            shutil.copytree(self._home / "job", copy)
            for file in copy.glob("checkpoints/step-*/*"):
                durable.sync(file)
                forget(file)
            for node in nodes:
                shutil.copytree(self._node("job", node), self._node("copy", node))
        if nodes == [0]:  # the other one is new
            shutil.copytree(self._node("job", 1), self._node("copy", 0), dirs_exist_ok=True)
        try:
            return self._start("copy", steps=steps)
        finally:
            shutil.rmtree(copy)
            for node in range(NODES):
                shutil.rmtree(self._node("copy", node))

    def _node(self, job: str, node: int) -> Path:
        return self._memory / f"{job}-{node}"

    def _start(self, job: str, *, steps: int) -> float:
        """Seconds to rank 0's first step."""
        began, port, ranks = time.perf_counter(), free_port(), []
        (self._home / job).mkdir(exist_ok=True)
        for rank in range(NODES):
            file = self._home / job / f"run-config-{rank}.json"
            file.write_text(json.dumps(self._config(job, rank, steps)))
            place = {
                "RANK": rank,
                "WORLD_SIZE": NODES,
                "LOCAL_RANK": 0,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
            environ = {name: str(value) for name, value in place.items()} | {
                "DEEPSEEKJOB_RUN_CONFIG_FILE": str(file),
                "DEEPSEEKJOB_POD_IP": "127.0.0.1",
            }
            output = subprocess.DEVNULL if rank else subprocess.PIPE
            command = [sys.executable, "-u", "-m", "deepseek_trainer"]
            ranks.append(subprocess.Popen(command, env=os.environ | environ, stdout=output, text=True))
        first, said = 0.0, ranks[0].stdout
        assert said is not None
        for line in said:
            if " loss=" in line and not first:
                first = time.perf_counter() - began
        codes = [process.wait() for process in ranks]
        assert not any(codes), f"the trainers ended with {codes}"
        return first

    def _config(self, job: str, node: int, steps: int) -> dict[str, Any]:
        return {
            "job": "bench",
            "backend": "gloo",
            "trainer": {
                "model": {"preset": "small"},
                "tokenizer": {"vocabSize": 512},
                "training": {"steps": steps, "globalBatchSize": 2, "microBatchSize": 1, "sequenceLength": 32},
                "evaluation": {"everySteps": 0, "batches": 1},
            },
            "data": {"path": str(self._text)},
            "dataCache": str(self._home / "cache"),
            "checkpoint": {
                "directory": str(self._home / job / "checkpoints"),
                "everySteps": 1,
                "keep": 1,
                "memory": {"directory": str(self._node(job, node)), "bytes": 4 * 2**30},
            },
        }
