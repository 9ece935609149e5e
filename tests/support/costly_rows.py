"""`python -m support.costly_rows`: the trainer, with rows that cost a rank time and not the machine's processors.

As on an accelerator, and with figures that don't depend on who else computes here. ROW_S has the seconds of a row, of each
rank. What Ray tokenises ahead costs time, too (`raywork.make_shard`).
"""

from __future__ import annotations

import os
import sys
import time
from types import SimpleNamespace
from typing import Any

from deepseek_trainer import __main__, gradient
from deepseek_trainer.data.dynamic import ahead
from deepseek_trainer.data.samples import IGNORED, MicroBatch
from deepseek_trainer.optim.loss import Objective, summed_objective
from support import raywork

ROW_S = "ROW_S"


def _costly(model: object, batch: MicroBatch, **chosen: Any) -> Objective:
    rows = int((batch.labels != IGNORED).any(dim=1).sum())
    time.sleep(rows * float(os.environ[ROW_S].split(",")[int(os.environ["RANK"])]))
    return summed_objective(model, batch, **chosen)


if __name__ == "__main__":
    vars(gradient)[summed_objective.__name__] = _costly
    vars(ahead)["parts"] = SimpleNamespace(make=raywork.make_shard)
    sys.exit(__main__.main())
