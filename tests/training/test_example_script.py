"""examples/scripts/next_byte.py under plain torchrun: it trains on two processes and goes on from its checkpoint."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from deepseek_trainer.agent import exec
from support import zygote

pytestmark = pytest.mark.training

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "scripts" / "next_byte.py"


def _torchrun(folder: Path, steps: int) -> str:
    """What it prints. It is a fork of the zygote, and so are its processes: nobody here imports torch anew."""
    warm, python = zygote.shared(), folder / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{exec.__file__}" $PPID "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    own = {
        "DEEPSEEKJOB_CHECKPOINT_DIR": str(folder),
        "DEEPSEEKJOB_PROGRESS_FILE": str(folder / "progress.json"),
        "OMP_NUM_THREADS": "1",
        "PYTHON_EXEC": str(python),  # torchrun's own word for what its processes are started with
    }
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(SCRIPT)]
    log = folder / f"{steps}.log"
    started = warm.start(
        [*argv, f"--steps={steps}", "--save-every=10"], environ=os.environ | own | warm.environ, log=log
    )
    code = started.wait(280)
    output = log.read_text()
    assert code == 0, output[-2000:]
    return output


def _losses(output: str) -> list[float]:
    return [float(loss) for loss in re.findall(r"loss=([\d.]+)", output)]


@pytest.mark.timeout(600)
def test_it_trains_saves_and_goes_on_where_it_was(tmp_path: Path) -> None:
    first = _torchrun(tmp_path, 20)
    assert "step=20/20" in first
    assert "world_size=2 resumed=0" in first
    second = _torchrun(tmp_path, 40)
    assert "step=10/40" not in second
    assert "step=40/40" in second
    assert "resumed=20" in second
    assert _losses(second)[-1] < _losses(first)[0]
    progress = json.loads((tmp_path / "progress.json").read_text())
    assert progress | {"step": 40, "totalSteps": 40, "resumedStep": 20} == progress
