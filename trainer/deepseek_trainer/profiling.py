"""Traces of torch's profiler, of steps that the config names or somebody asks for while training runs.

To ask is to touch a file in the pod: that needs no port, no signal and no right but to exec. While nothing is asked for
the cost is a look at the clock after each step, and at the file once a second.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from deepseek_trainer.config import ProfileSpec, RunConfig
from deepseek_trainer.contract import Env, Paths
from deepseek_trainer.distributed.world import World
from deepseek_trainer.errors import first_line
from deepseek_trainer.logs import fields
from deepseek_trainer.progress import Progress
from deepseek_trainer.request import Request

log = logging.getLogger(__name__)

REQUEST = "profile"
"""The file in the pod's run folder."""


class Profiler:
    """Of one rank and one start of training: call `stepped` before the first step and after each."""

    def __init__(self, spec: ProfileSpec, world: World, folder: Path, request: Request, progress: Progress) -> None:
        self._spec, self._world, self._folder, self._request, self._progress = spec, world, folder, request, progress
        self._planned = spec.from_step if world.rank in spec.ranks else None
        self._trace: profile | None = None
        self._first = self._last = 0

    def stepped(self, step: int) -> None:
        """Steps up to this one are made: ends and begins what is due."""
        if self._trace is not None and step >= self._last:
            with self._progress.pulse.apart():  # else this rank would be told as a slow one
                self.close()
            self._progress.started()
        if self._trace is None and (step + 1 == self._planned or self._request.is_new()):
            self._begin(step + 1)

    def close(self) -> None:
        """Writes the trace that is being recorded, if any. What can't be written is a warning."""
        trace, self._trace = self._trace, None
        if trace is None:
            return
        path = self._folder / f"step-{self._first:08d}-rank-{self._world.rank:05d}.json.gz"
        scratch = path.with_name(f".{os.getpid()}-{path.name}")
        try:
            trace.stop()
            self._folder.mkdir(parents=True, exist_ok=True)
            trace.export_chrome_trace(str(scratch))
            scratch.replace(path)
            log.info("profiled %s", fields(first=self._first, last=self._last, path=path))
        except (OSError, RuntimeError) as error:
            log.warning("trainer.profile: no trace in %s: %s; training goes on", path, first_line(error))
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)

    def _begin(self, first: int) -> None:
        activities = [ProfilerActivity.CPU]
        if self._world.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._first, self._last = first, first + self._spec.steps - 1
        self._trace = profile(activities=activities, with_stack=self._spec.stacks)
        try:
            self._trace.start()
        except RuntimeError as error:
            self._trace = None
            log.warning("trainer.profile: the profiler doesn't start: %s; training goes on", first_line(error))


def of(config: RunConfig, world: World, environ: Mapping[str, str], progress: Progress) -> Profiler:
    """This rank's profiler."""
    spec, run_dir = config.trainer.profile, Path(environ.get(Env.RUN_DIR) or Paths.RUN_DIR)
    folder = config.profile_directory
    request = Request(run_dir / REQUEST, clock=time.monotonic)
    return Profiler(spec, world, Path(folder) if folder else run_dir / "profiles", request, progress)
