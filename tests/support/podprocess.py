"""A pod that is a process: an agent forked from the test run's zygote, and all that it starts."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path

from deepseek_client.local.launch import Launch
from deepseek_operator.api.names import Env
from support.agents import family, training_processes
from support.api import Object
from support.zygote import Zygote

MESSAGE_MAX_BYTES, LOG_TAIL_BYTES = 4096, 2048


class PodProcess:
    """A pod's container, from its start to its end. `annotations` is what its metadata said when its files were written."""

    def __init__(
        self, uid: str, node: str, ip: str, launch: Launch, annotations: Mapping[str, str], log: Path, zygote: Zygote
    ) -> None:
        self.name, self.uid, self.node, self.ip = launch.pod, uid, node, ip
        self.launch, self.annotations, self.log = launch, annotations, log
        self.deadline: float | None = None
        """Monotonic seconds at which SIGKILL follows; None while nobody has deleted the pod."""
        environ = os.environ | dict(launch.env) | zygote.environ
        self.process = zygote.start(launch.command, environ=environ, log=log)

    def exit_code(self) -> int | None:
        """None while it runs; as a container's: 128 + the signal's number when a signal ended it."""
        code = self.process.poll()
        return 128 - code if code is not None and code < 0 else code

    def terminate(self, now: float) -> None:
        """SIGTERM, and the grace begins; again is nothing."""
        if self.deadline is None:
            self.deadline = now + self.launch.grace_s
            self.process.send_signal(signal.SIGTERM)

    def overdue(self, now: float) -> bool:
        return self.deadline is not None and now >= self.deadline

    def kill(self) -> None:
        """All at once: what it has started dies with the agent."""
        self.process.kill()
        self.process.wait()

    def signal_process(self, rank: int, number: signal.Signals) -> None:
        """Signals one training process, counted from 0 in this pod; one that is gone is passed over."""
        ranks = training_processes(self.process.pid)
        if rank < len(ranks):
            _signal(ranks[rank], number)

    def signal_all(self, number: signal.Signals) -> None:
        for pid in family(self.process.pid):
            _signal(pid, number)

    def state(self) -> Object:
        """The container's state, as a pod's status has it."""
        code = self.exit_code()
        if code is None:
            return {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        words = _tail(Path(self.launch.env[Env.TERMINATION_LOG]), MESSAGE_MAX_BYTES)
        message = words or ("" if code == 0 else _tail(self.log, LOG_TAIL_BYTES))
        return {"terminated": {"exitCode": code, "reason": "Error" if code else "Completed", "message": message}}


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
        os.kill(pid, number)


def _tail(path: Path, size: int) -> str:
    try:
        return path.read_bytes()[-size:].decode("utf-8", "replace")
    except FileNotFoundError:  # it ended before it could write any
        return ""
