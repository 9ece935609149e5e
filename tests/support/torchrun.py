"""Agents of plain torchrun over its c10d rendezvous, for comparison: nothing of ours is in them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

from support.agents import SCRIPT, AgentProcess, World

RDZV_CONF = "join_timeout=60,last_call_timeout=3,timeout=60,keep_alive_interval=2,keep_alive_max_attempt=2"
"""Shorter than torch's defaults (last call 30 s, keep-alive 3 x 5 s), so that it shrinks as soon as it reasonably may."""

OWN_STORES = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""A store for each round, beside the rendezvous's: without it those who join later deadlock with those who stayed."""


class Torchrun(AgentProcess):
    """One torchrun and its training process."""

    def kill(self) -> None:
        """All of it at once. Its training processes would live on without it: torchrun gives them no death signal."""
        children = self.children()
        super().kill()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class TorchrunWorld(World):
    """The torchruns of one job: two of them train, three if there are. The first one hosts the store."""

    def __init__(self, folder: Path, **environ: str) -> None:
        super().__init__(folder)
        self._environ = environ
        self.agents: list[Torchrun] = []

    def join(self) -> Torchrun:
        """Starts one more."""
        options = [
            "--nnodes=2:3",
            "--nproc-per-node=1",
            "--max-restarts=100",
            "--rdzv-backend=c10d",
            "--rdzv-id=job",
            f"--rdzv-endpoint=127.0.0.1:{self.port}",
            f"--rdzv-conf={RDZV_CONF},is_host={int(not self.agents)}",
            "--local-addr=127.0.0.1",
        ]
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            *options,
            str(SCRIPT),
            str(self.shared),
            str(self.steps),
        ]
        agent = Torchrun(self.folder, f"agent-{len(self.agents)}", command, {"OMP_NUM_THREADS": "1", **self._environ})
        self.agents.append(agent)
        return agent

    def describe(self) -> str:
        return "\n".join(f"--- {agent.name} ({agent.process.poll()})\n{agent.log()[-3000:]}" for agent in self.agents)

    def close(self) -> None:
        for agent in self.agents:
            agent.kill()
