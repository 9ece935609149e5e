"""Real nodes of a Ray cluster on loopback, each kept by the process that its container would run."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from deepseek_trainer import logs
from deepseek_trainer.contract import Env
from deepseek_trainer.raycluster import startup
from deepseek_trainer.raycluster.keeper import Keeper
from deepseek_trainer.raycluster.settings import MIN_OBJECT_STORE_BYTES, Ports, Role, Settings
from support.eventually import eventually

HEAD_IP = "127.0.0.2"
START_S = 180.0
"""A head starts five Python processes; on a busy machine that takes a minute."""


@dataclass
class RayNode:
    """A head or a node, with ports of its own: on one machine a raylet's would clash with the next one's."""

    role: Role
    number: int
    gcs: int
    folder: Path
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def address(self) -> str:
        return f"127.0.0.{self.number + 2}"

    @property
    def settings(self) -> Settings:
        first = self.gcs + 100 + self.number * 100
        ports = Ports(self.gcs, first, first + 1, first + 2, (first + 10, first + 99))
        return Settings(
            self.role, self.address, HEAD_IP, MIN_OBJECT_STORE_BYTES, int(self.role == "node"), ports, self.folder
        )

    @property
    def log(self) -> str:
        return (self.folder.parent / f"{self.folder.name}.log").read_text()

    def start(self, environ: dict[str, str]) -> None:
        self.folder.mkdir(exist_ok=True)
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            command = [sys.executable, "-m", __name__, self.role, str(self.number), str(self.gcs), str(self.folder)]
            path = os.pathsep.join(part for part in sys.path if part)
            environ = {**os.environ, **environ, "PYTHONPATH": path}
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environ)

    def starts(self) -> int:
        return self.log.count("Ray runtime started")

    def raylet_pid(self) -> int | None:
        """The pid of the raylet now; None while there is none."""
        return startup.find(self.process.pid, "raylet")

    def gcs_pid(self) -> int | None:
        return startup.find(self.process.pid, "gcs_server")

    def await_started(self, times: int = 1) -> None:
        """Returns when Ray has been started for so many times, and is there."""
        eventually(
            lambda: self.process.poll() is not None or (self.starts() >= times and self.raylet_pid() is not None),
            deadline_s=START_S,
            describe=lambda: self.log[-3000:],
            what=f"ray {self.role} {self.number} started",
        )
        assert self.process.poll() is None, self.log

    def end(self) -> float:
        """Seconds from SIGTERM to its end."""
        began = time.monotonic()
        self.process.terminate()
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
        return time.monotonic() - began


@dataclass
class RayCluster:
    """A head and some nodes, with a token that the processes of the test get by their environment."""

    folder: Path
    gcs: int
    nodes: list[RayNode] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """What a worker's container is told, on the first node."""
        token = self.folder / "token"
        if not token.exists():
            token.write_text(secrets.token_hex(32))
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            Env.RAY_HEAD: f"{HEAD_IP}:{self.gcs}",
            Env.POD_IP: "127.0.0.3",
        }

    def start(self, nodes: int) -> None:
        self.nodes = [
            RayNode("node" if number else "head", number, self.gcs, self.folder / f"ray{number}")
            for number in range(nodes + 1)
        ]
        for node in self.nodes:
            node.start(self.environment())
        for node in self.nodes:
            node.await_started()

    def end(self) -> None:
        for node in reversed(self.nodes):
            if node.process.poll() is None:
                os.kill(node.process.pid, signal.SIGCONT)
                node.end()


if __name__ == "__main__":
    role, number, gcs, folder = sys.argv[1:]
    logs.configure(0)
    Keeper(RayNode(role, int(number), int(gcs), Path(folder)).settings, os.environ).run()  # type: ignore[arg-type]
