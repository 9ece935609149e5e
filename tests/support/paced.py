"""A module for a zygote: its forks wait after each optimizer step, for as many seconds as STEP_S in their environment says.

As where a step takes time, and the processor is free meanwhile: until a test has seen a step and done what follows from
it, a few more are made, and not a hundred that have to be computed. Where the test itself may get no processor for
seconds that is not enough: GATE names a file by which it holds steps for as long as it needs.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

STEP_S = "STEP_S"
GATE = "GATE"


def hold(gate: Path, *, after: int = 0, seconds: float = math.inf) -> None:
    """As long as the file exists, each step from number `after` on takes that long; inf: no other one is made.

    What a held step would tell is not told yet: its report, and one before it that the reporter has kept back.
    """
    staged = gate.with_suffix(".staged")
    staged.write_text(f"{after} {seconds}")
    staged.replace(gate)


def _wait(optimizer: Optimizer, *_: Any) -> None:
    time.sleep(float(os.environ.get(STEP_S, "0")))
    began = time.monotonic()
    while time.monotonic() - began < _held_s(optimizer):
        time.sleep(0.01)


def _held_s(optimizer: Optimizer) -> float:
    try:
        after, seconds = Path(os.environ[GATE]).read_text().split()
    except (KeyError, FileNotFoundError):
        return 0.0
    made = max(int(state["step"]) for state in optimizer.state.values())  # of all starts: it is part of a checkpoint
    return float(seconds) if made >= int(after) else 0.0


register_optimizer_step_post_hook(_wait)
