"""A local pod: a process and its group of descendants, with the life of a pod.

start -> Pending until the process runs -> Running -> Succeeded | Failed
delete -> terminating: SIGTERM, then after the grace period SIGKILL to everything that is left -> gone
vanish -> SIGKILL to everything at once -> gone, as when a machine is lost
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepseek_operator.api.names import ANNOTATION_MEMBERSHIP, LABEL_INCARNATION, LABEL_SLOT, Env
from deepseek_operator.decide.types import Manifest, Pod

from deepseek_client.local import processes
from deepseek_client.local.launch import Launch
from deepseek_client.local.scheduler import PodScheduler, RunningPod

_MESSAGE_MAX_BYTES = 4096
_LOG_TAIL_BYTES = 2048

Phase = Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]


@dataclass(slots=True)
class LocalPod:
    """One started pod. `annotations` is what its metadata says; the files show a localised copy."""

    manifest: Manifest
    uid: str
    ip: str
    launch: Launch
    running: RunningPod
    annotations: dict[str, str]
    ready: bool = False
    delete_deadline: float | None = None
    """Monotonic seconds at which SIGKILL follows; None while nobody deleted it."""
    swept: bool = False
    """The main process ended, and what it had left behind was killed."""

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def node(self) -> str:
        return f"local-{self.ip}"

    @property
    def marks(self) -> dict[str, str]:
        """What every process of this pod has in its environment, and no process of another."""
        return {Env.POD_NAME: self.name, Env.RUN_DIR: self.launch.env[Env.RUN_DIR]}

    def exit_code(self) -> int | None:
        return self.running.exit_code()

    def sweep(self) -> None:
        """A container's other processes end with its first."""
        if not self.swept and self.exit_code() is not None:
            processes.kill_all(self.marks)
            self.swept = True

    def terminate(self, now: float) -> None:
        """Begins a deletion; again is nothing."""
        if self.delete_deadline is None:
            self.delete_deadline = now + self.launch.grace_s
            if self.exit_code() is None:
                self.running.process.send_signal(signal.SIGTERM)

    def overdue(self, now: float) -> bool:
        return self.delete_deadline is not None and now >= self.delete_deadline

    def kill(self, scheduler: PodScheduler) -> None:
        """Ends every process of the pod at once and closes its logs."""
        processes.kill_all(self.marks)
        self.running.process.wait()
        scheduler.cancel(self.running.app)
        self.swept = True

    def observed(self) -> Pod:
        """As the API server would show it."""
        code = self.exit_code()
        phase: Phase = "Running" if code is None else "Succeeded" if code == 0 else "Failed"
        labels = self.manifest["metadata"]["labels"]
        return Pod(
            name=self.name,
            uid=self.uid,
            slot=int(labels[LABEL_SLOT]),
            incarnation=int(labels[LABEL_INCARNATION]),
            phase=phase,
            ready=self.ready and code is None,
            terminating=self.delete_deadline is not None,
            ip=self.ip,
            node=self.node,
            membership=self.annotations.get(ANNOTATION_MEMBERSHIP),
            exit_code=code,
            reason="" if code is None else "Completed" if code == 0 else "Error",
            message="" if code is None else self._last_words(),
        )

    def _last_words(self) -> str:
        """The termination message; after a failure without one, the end of the output, as a kubelet does it."""
        written = _tail(Path(self.launch.env[Env.TERMINATION_LOG]), _MESSAGE_MAX_BYTES)
        return written or ("" if self.exit_code() == 0 else _tail(self.running.log, _LOG_TAIL_BYTES))


def _tail(path: Path, size: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return file.read(size).decode("utf-8", "replace")
    except OSError:  # it ended before it could write any
        return ""
