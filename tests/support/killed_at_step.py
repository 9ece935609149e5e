"""The trainer in a process that kills itself (SIGKILL) right after as many optimizer steps as $KILLED_AT_STEP says."""

from __future__ import annotations

import itertools
import os
import signal

from deepseek_trainer import __main__
from torch.optim.optimizer import register_optimizer_step_post_hook


def kill_at(step: int) -> None:
    steps = itertools.count(1)

    def made(*_: object) -> None:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    register_optimizer_step_post_hook(made)


if __name__ == "__main__":
    kill_at(int(os.environ["KILLED_AT_STEP"]))
    __main__.end(__main__.main())
