"""`python -m support.poisoned`: the trainer, on whose last rank the gradient of the steps in BAD_STEPS is no number."""

from __future__ import annotations

import math
import os
import sys

from deepseek_trainer import __main__, gradient
from deepseek_trainer.data.feed import Feed, Step
from deepseek_trainer.distributed.shards import local
from deepseek_trainer.start import Run

BAD_STEPS = "BAD_STEPS"
_ACCUMULATE = gradient.accumulate


def _poisoned(run: Run, feed: Feed, step: Step) -> float:
    loss = _ACCUMULATE(run, feed, step)
    bad = [int(number) for number in os.environ[BAD_STEPS].split(",")]
    if feed.ledger.step + 1 in bad and run.world.rank == run.world.size - 1:
        for parameter in run.model.parameters():
            local(parameter.grad).fill_(math.inf)
    return loss


if __name__ == "__main__":
    vars(gradient)[_ACCUMULATE.__name__] = _poisoned
    sys.exit(__main__.main())
