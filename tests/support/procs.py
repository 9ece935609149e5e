"""Training processes as torchrun would start them, on loopback, without torchrun.

They are forked from a server that has torch and transformers imported already: the import costs ten seconds of
CPU, a fork next to nothing. Everything after the import is what `python -m deepseek_trainer` does.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

DEADLINE_S = 110.0


@dataclass(frozen=True)
class Ended:
    """How one process ended."""

    exit_code: int
    """Negative: the signal that killed it."""
    output: str


@dataclass
class Processes:
    """The ranks of one world, running."""

    folder: Path
    processes: list[ForkServerProcess] = field(default_factory=list)

    def output(self, rank: int) -> str:
        path = self.folder / f"rank-{rank}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait(self, deadline_s: float = DEADLINE_S) -> list[Ended]:
        """Waits for all ranks; kills what is left at the deadline and says what it printed."""
        end = time.monotonic() + deadline_s
        for process in self.processes:
            process.join(max(0.1, end - time.monotonic()))
        late = any(process.is_alive() for process in self.processes)
        self.kill()
        if late:
            raise AssertionError(f"still running after {deadline_s:g} s:\n{self.outputs()}")
        return [Ended(int(process.exitcode or 0), self.output(rank)) for rank, process in enumerate(self.processes)]

    def outputs(self) -> str:
        return "\n".join(f"--- rank {rank}\n{self.output(rank)[-3000:]}" for rank in range(len(self.processes)))

    def send(self, number: int, ranks: list[int] | None = None) -> None:
        for rank in range(len(self.processes)) if ranks is None else ranks:
            pid = self.processes[rank].pid
            assert pid is not None
            if self.processes[rank].is_alive():
                os.kill(pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        for process in self.processes:
            process.join()


def start_training(
    config: Mapping[str, Any], *, world_size: int, folder: Path, environ: Mapping[str, str] | None = None
) -> Processes:
    """Starts the built-in trainer; output is in folder/rank-<n>.log, rank 0's report in folder/progress.json."""
    folder.mkdir(parents=True, exist_ok=True)
    run_config = folder / "run-config.json"
    run_config.write_text(json.dumps(config))
    shared = {
        "DEEPSEEKJOB_RUN_CONFIG_FILE": str(run_config),
        "DEEPSEEKJOB_PROGRESS_FILE": str(folder / "progress.json"),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        **(environ or {}),
    }
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["deepseek_trainer.train"])
    running = Processes(folder)
    for rank in range(world_size):
        own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        process = context.Process(target=_train, args=(own, folder / f"rank-{rank}.log"), daemon=True)
        process.start()
        running.processes.append(process)
    return running


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _train(environ: dict[str, str], log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    os.environ.update(environ)

    import torch
    from deepseek_trainer.__main__ import main

    torch.set_num_threads(1)
    sys.exit(int(main()))
