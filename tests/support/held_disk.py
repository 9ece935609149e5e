"""The trainer on a disk that takes its time: an fsync of a shard waits while the file that $HELD_DISK names exists."""

from __future__ import annotations

import os
import time
from pathlib import Path

from deepseek_trainer import __main__


def hold(path: Path) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        while path.exists() and os.readlink(f"/proc/self/fd/{descriptor}").endswith(".distcp"):
            time.sleep(0.01)
        real(descriptor)

    vars(os)[real.__name__] = fsync


if __name__ == "__main__":
    hold(Path(os.environ["HELD_DISK"]))
    __main__.end(__main__.main())
