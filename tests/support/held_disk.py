"""The trainer on a disk that takes its time: an fsync of a shard waits while the file that $HELD_DISK names exists.

Rank 1 kills itself (SIGKILL) after its 6th optimizer step, once an fsync of each rank waits.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path

from deepseek_trainer import __main__
from torch.optim.optimizer import register_optimizer_step_post_hook

KILLED_AT = 6


def hold(path: Path, own_mark: Path) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        while path.exists() and os.readlink(f"/proc/self/fd/{descriptor}").endswith(".distcp"):
            own_mark.touch()
            time.sleep(0.01)
        real(descriptor)

    vars(os)[real.__name__] = fsync


def kill_once_held(marks: list[Path]) -> None:
    steps = itertools.count(1)

    def made(*_: object) -> None:
        if next(steps) == KILLED_AT:
            while not all(mark.exists() for mark in marks):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

    register_optimizer_step_post_hook(made)


if __name__ == "__main__":
    held = Path(os.environ["HELD_DISK"])
    marks = [held.with_suffix(f".{rank}") for rank in range(int(os.environ["WORLD_SIZE"]))]
    hold(held, marks[int(os.environ["RANK"])])
    if os.environ["RANK"] == "1":
        kill_once_held(marks)
    __main__.end(__main__.main())
