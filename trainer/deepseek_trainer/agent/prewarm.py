"""The pod's zygote, as the agent sees it: started before anything is needed, offered as long as it lives.

Losing it costs nothing but time: commands then import for themselves, and the next start has a new zygote.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from deepseek_trainer.agent import exec
from deepseek_trainer.agent.log import EventLog
from deepseek_trainer.agent.settings import Settings
from deepseek_trainer.agent.zygote import warm_mark

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
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts a zygote where one is wanted and none lives."""
        if not self._wanted or (self._process is not None and self._process.poll() is None):
            return
        if self._process is not None:
            self._log.warning("prewarmed process is gone", exit_code=self._process.returncode)
        # Not below the run directory: a socket's path may have 107 bytes.
        self._folder = self._folder or Path(tempfile.mkdtemp(prefix="zygote-"))
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
        if self._process is None or self._process.poll() is not None:
            return True
        return self._mark.exists()

    def stop(self) -> None:
        """Ends the zygote, and with it every process that it forked."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _address(self) -> Path:
        assert self._folder is not None  # noqa: S101 - made by start
        return self._folder / "socket"

    @property
    def _mark(self) -> Path:
        return warm_mark(str(self._address))
