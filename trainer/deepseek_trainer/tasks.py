"""What the built-in trainer does, by `trainer.task`: one function for each value, with the arguments of `train`.

A task that learns to predict the next token is the one loop of `train` with another model to begin with
(`model.origin`); a task of another kind brings a function of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from deepseek_trainer.config import RunConfig
from deepseek_trainer.distributed.world import World
from deepseek_trainer.progress import Progress
from deepseek_trainer.signals import StopSignal
from deepseek_trainer.train import train

Task = Callable[[RunConfig, World, Progress, StopSignal, Mapping[str, str]], None]

TASKS: Mapping[str, Task] = {"pretrain": train, "finetune": train}
