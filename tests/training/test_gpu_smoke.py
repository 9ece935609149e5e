"""The same loop over nccl: one rank on a GPU, bf16, saved and resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.procs import start_training
from support.runs import losses, report

pytestmark = [
    pytest.mark.training,
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU is visible"),
]


def test_nccl_trains_saves_and_resumes(config: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    first = {**config(steps=4, precision="bf16"), "backend": "nccl"}
    ended = start_training(first, world_size=1, folder=tmp_path / "first").wait()[0]
    assert ended.exit_code == 0, ended.output
    assert "device=cuda" in ended.output
    assert len(losses(ended.output)) == 4

    again = {**config(steps=8, precision="bf16"), "backend": "nccl"}
    ended = start_training(again, world_size=1, folder=tmp_path / "again").wait()[0]
    assert ended.exit_code == 0, ended.output
    assert report(tmp_path / "again")["resumedStep"] == 4
