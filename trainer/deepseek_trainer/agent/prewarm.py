"""The pod's zygote, as the agent sees it: a fork of it with torch imported, offered as long as it lives.

Losing it costs nothing but time: commands then import for themselves, and the next start has a new zygote, which
imports all for itself.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from deepseek_trainer.agent import exec, zygote
from deepseek_trainer.agent.log import EventLog
from deepseek_trainer.agent.settings import Settings

BUILT_IN = ("deepseek_trainer.distributed.world", "deepseek_trainer.progress", "deepseek_trainer.tasks")
"""What the built-in trainer imports sooner or later."""
ANY_SCRIPT = ("torch", "torch.distributed")
NO_CUDA_CONTEXT = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""Has torch count GPUs without the driver, whose state would not survive a fork."""


class Prewarm:
    """Starts the zygote, and again when it is gone."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], log: EventLog) -> None:
        """Args: environ: of the training processes, as far as it is known before they start."""
        self._wanted = settings.prewarm
        self._modules = BUILT_IN if settings.is_built_in else ANY_SCRIPT
        self._environ = {**environ, **NO_CUDA_CONTEXT}
        self._log = log
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | Forked | None = None

    def fork(self) -> bool:
        """Starts the zygote, if one is wanted, as a fork of this process; True in the zygote, which has to `serve`.

        This process has one thread, and torch and all that the agent imports are imported.
        """
        if not self._wanted:
            return False
        self._folder = Path(tempfile.mkdtemp(prefix="zygote-"))  # not below the run directory: a socket's path is short
        agent, pid = os.getpid(), os.fork()
        if pid:
            self._process = Forked(pid)
            return False
        exec.die_with_parent(agent)
        os.environ.update(NO_CUDA_CONTEXT)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # what libraries say of being imported
        return True

    def serve(self) -> NoReturn:
        """What the fork does, for ever; its own forks run their commands and end."""
        zygote.serve(str(self._address), self._modules)

    def start(self) -> None:
        """Starts a zygote anew where the last one is gone."""
        if self._process is None or self._process.poll() is None:
            return
        self._log.warning("prewarmed process is gone", exit_code=self._process.returncode)
        self._address.unlink(missing_ok=True)
        self._mark.unlink(missing_ok=True)
        bound = [sys.executable, "-S", exec.__file__, str(os.getpid())]
        command = [sys.executable, "-u", "-m", "deepseek_trainer.agent.zygote", str(self._address), *self._modules]
        self._process = subprocess.Popen([*bound, *command], env=self._environ, stderr=subprocess.DEVNULL)

    def environment(self) -> dict[str, str]:
        """What tells a command of the zygote; nothing where there is none."""
        return {exec.ZYGOTE: str(self._address)} if self._process is not None and self._process.poll() is None else {}

    def is_warm(self) -> bool:
        """Whether a start would find everything imported, or nothing more is to be expected."""
        return self._process is None or self._process.poll() is not None or self._mark.exists()

    def stop(self) -> None:
        """Ends the zygote, and with it every process that it forked."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _address(self) -> Path:
        assert self._folder is not None  # noqa: S101 - made by fork
        return self._folder / "socket"

    @property
    def _mark(self) -> Path:
        return zygote.warm_mark(str(self._address))


class Forked:
    """A fork of this process, to be used as a `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._lock = threading.Lock()  # a probe asks, too

    def poll(self) -> int | None:
        return self._status(os.WNOHANG)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int | None:
        return self._status(0)

    def _status(self, options: int) -> int | None:
        with self._lock:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, options)
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
            return self.returncode
