"""A module for a zygote: its forks wait after each optimizer step, for as many seconds as STEP_S in their environment says.

As where a step takes time, and the processor is free meanwhile: until a test has seen a step and done what follows from
it, a few more are made, and not a hundred that have to be computed.
"""

from __future__ import annotations

import os
import time

from torch.optim.optimizer import register_optimizer_step_post_hook

STEP_S = "STEP_S"

register_optimizer_step_post_hook(lambda *_: time.sleep(float(os.environ.get(STEP_S, "0"))))
