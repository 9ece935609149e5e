"""A process that saves checkpoints as it is told, for a test that stops it at each change that it makes.

Each line of its pipe is FOLDER GENERATION STEP; when it has saved, or was not let, it makes the folder FOLDER-saved or
FOLDER-refused.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Never

import torch
from deepseek_trainer.checkpoint.save import Writer
from deepseek_trainer.distributed.world import World, join
from deepseek_trainer.errors import UnavailableError


def author(
    world: World, *, generation: int = 1, keep: int = 2, model: Mapping[str, Any] = MappingProxyType({"layers": 1})
) -> dict[str, Any]:
    """The fields of `author.Author` that have no default."""
    return {
        "job": "test",
        "uid": "uid-1",
        "generation": generation,
        "attempt": 1,
        "keep": keep,
        "model": dict(model),
        "world": world,
    }


def writer(folder: Path, world: World, **fields: Any) -> Writer:
    """Args:
    fields: of `author`.
    """
    return Writer(folder, **author(world, **fields))


def state(step: int) -> dict[str, dict[str, torch.Tensor]]:
    """Weights and moments that tell their step."""
    return {"model": {"weight": torch.full((64,), float(step))}, "optimizer": {"moment": torch.full((64,), step / 2)}}


def run(pipe: Path, log: Path) -> Never:
    """What a fork does, until it is killed."""
    try:
        with log.open("w") as output, join("gloo", {}) as world, pipe.open() as orders:
            os.dup2(output.fileno(), 2)
            for order in orders:
                folder, generation, step = order.split()
                _save(writer(Path(folder), world, generation=int(generation)), int(step))
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def _save(with_: Writer, step: int) -> None:
    try:
        with_.save(state(step), {"step": step})
        end = "saved"
    except UnavailableError as error:
        print(error, file=sys.stderr, flush=True)
        end = "refused"
    with_.folder.with_name(f"{with_.folder.name}-{end}").mkdir()
