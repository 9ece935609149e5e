"""Which of the two modes of the data plane a run has: `data.mode`."""

from __future__ import annotations

from collections.abc import Mapping

from deepseek_trainer.config import RunConfig
from deepseek_trainer.data import positions
from deepseek_trainer.data.dynamic import opening
from deepseek_trainer.data.feed import Data
from deepseek_trainer.distributed.world import World
from deepseek_trainer.progress import Progress


def open_data(config: RunConfig, world: World, progress: Progress, environ: Mapping[str, str]) -> Data:
    """What `spec.data` means. A collective.

    Raises:
        DataError: it can't be read, or the ranks have different data.
        ConfigError: the tokenizer or the chat template can't be had.
        UnavailableError: a volume is out of reach, or full.
    """
    if config.data.mode == "Dynamic":
        return opening.open_data(config, world, progress, environ)
    return positions.open_data(config, world, environ)
