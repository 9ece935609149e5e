"""Pods as TorchX apps: one app of one role with one replica each, started by TorchX's local scheduler.

Adds two things to it. A pod is told to end when `dsj` itself is killed (the kernel's parent-death signal). And
the exit status of the process is kept, which TorchX folds into succeeded or failed.
"""

from __future__ import annotations

import io
import logging
import signal
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

from torchx.schedulers.local_scheduler import CWDImageProvider, LocalScheduler
from torchx.specs import AppDef, Role

from deepseek_client.local.processes import death_signal

_MAX_APPS = 16384


class PodScheduler(LocalScheduler):  # type: ignore[misc]  # torchx carries no types
    """TorchX's local scheduler, working from the current directory; construct it where signals may be set."""

    def __init__(self, session: str) -> None:
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        super().__init__(session, CWDImageProvider, cache_size=_MAX_APPS)
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # TorchX puts its own there; how dsj ends is dsj's to say
                signal.signal(number, handler)
        logging.getLogger("torchx").setLevel(logging.WARNING)
        self._death_signal = death_signal()
        self._started: subprocess.Popen[bytes] | None = None

    def start(self, name: str, command: list[str], env: Mapping[str, str], log_dir: Path) -> RunningPod:
        """Starts one pod's process.

        Raises:
            OSError: the command can't be executed.
        """
        role = Role(
            name="worker",
            image="",  # the current directory
            entrypoint=command[0],
            args=[_literal(part) for part in command[1:]],
            env={key: _literal(value) for key, value in env.items()},
            num_replicas=1,
        )
        app = self.submit(AppDef(name=name, roles=[role]), {"log_dir": str(log_dir)})
        process, self._started = self._started, None
        if process is None:
            raise RuntimeError(f"TorchX started no process for pod {name}")
        log = log_dir / self.session_name / app / role.name / "0" / "combined.log"
        return RunningPod(app=app, process=process, log=log)

    def run_local_job(
        self,
        args: list[str],
        env: dict[str, str],
        stdout: io.FileIO | None,
        stderr: io.FileIO | None,
        cwd: str | None = None,
    ) -> subprocess.Popen[bytes]:
        """TorchX's seam for starting the process: its own call, with the parent-death signal."""
        self._started = subprocess.Popen(
            args=args,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            cwd=cwd,
            preexec_fn=self._death_signal,  # noqa: PLW1509  # one system call, bound beforehand: safe after fork
        )
        return self._started


class RunningPod:
    """The process of a pod, and where its output goes."""

    def __init__(self, app: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.app = app
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        return self.process.pid

    def exit_code(self) -> int | None:
        """None while it runs; as a container's: 128 + the signal's number when a signal ended it."""
        code = self.process.poll()
        return 128 - code if code is not None and code < 0 else code


def _literal(text: str) -> str:
    """TorchX substitutes ${...} in arguments and environment; a pod's are final."""
    return text.replace("$", "$$")
