"""Training processes as torchrun would start them, on loopback, without torchrun.

They are forked from a zygote that has torch and transformers imported already. Everything after the imports is what
`python -m deepseek_trainer` does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import zygote
from support.ports import free_port
from support.zygote import Forked

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
    processes: list[Forked] = field(default_factory=list)

    def output(self, rank: int) -> str:
        path = self.folder / f"rank-{rank}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait(self, deadline_s: float = DEADLINE_S) -> list[Ended]:
        """Waits for all ranks; kills what is left at the deadline and says what it printed."""
        end = time.monotonic() + deadline_s
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, end - time.monotonic()))
        late = any(process.poll() is None for process in self.processes)
        self.kill()
        if late:
            raise AssertionError(f"still running after {deadline_s:g} s:\n{self.outputs()}")
        return [Ended(process.wait(), self.output(rank)) for rank, process in enumerate(self.processes)]

    def outputs(self) -> str:
        return "\n".join(f"--- rank {rank}\n{self.output(rank)[-3000:]}" for rank in range(len(self.processes)))

    def send(self, number: int, ranks: list[int] | None = None) -> None:
        for rank in range(len(self.processes)) if ranks is None else ranks:
            self.processes[rank].send_signal(number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        for process in self.processes:
            process.wait()


def start_training(
    config: Mapping[str, Any],
    *,
    world_size: int,
    folder: Path,
    environ: Mapping[str, str] | None = None,
    module: str = "deepseek_trainer",
) -> Processes:
    """Starts the built-in trainer, or a module that stands for it; output is in folder/rank-<n>.log, rank 0's report in folder/progress.json."""
    folder.mkdir(parents=True, exist_ok=True)
    run_config = folder / "run-config.json"
    run_config.write_text(json.dumps(config))
    shared = {
        "DEEPSEEKJOB_RUN_CONFIG_FILE": str(run_config),
        "DEEPSEEKJOB_PROGRESS_FILE": str(folder / "progress.json"),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
        **(environ or {}),
    }
    running = Processes(folder)
    command = [sys.executable, "-m", module]
    for rank in range(world_size):
        own = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        log = folder / f"rank-{rank}.log"
        running.processes.append(zygote.shared().start(command, environ=own, log=log))
    return running
