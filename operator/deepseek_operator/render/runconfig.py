"""The built-in trainer's run config, made of the job's spec.

Rule: `spec.trainer` and `spec.data` pass through as they are; their one home is `deepseek_trainer.config`, which
also checks the result when the worker starts. tests/contract proves that what is rendered here is valid there.
"""

from __future__ import annotations

import json

from deepseek_operator.api.names import Paths
from deepseek_operator.api.v1alpha1 import Checkpoint, DeepSeekJob


def checkpoint_section(checkpoint: Checkpoint | None) -> dict[str, object] | None:
    """Where and how often the trainer saves; None: it doesn't."""
    if checkpoint is None:
        return None
    return {"directory": Paths.CHECKPOINTS, "everySteps": checkpoint.interval.steps, "keep": checkpoint.keep}


def data_cache(checkpoint: Checkpoint | None) -> str:
    """Folder of prepared tokens: on the checkpoint volume, where all workers share it and it outlives them."""
    return f"{Paths.CHECKPOINTS}/data" if checkpoint else f"{Paths.RUN_DIR}/data"


def run_config_json(job: DeepSeekJob) -> str | None:
    """The value of the run-config annotation; None for a user's own entrypoint, which has no run config."""
    spec = job.spec
    if spec.trainer is None:
        return None
    wire = {
        "job": job.metadata.name,
        "backend": spec.backend,
        "trainer": spec.trainer,
        "data": spec.data or {},
        "checkpoint": checkpoint_section(spec.checkpoint),
        "dataCache": data_cache(spec.checkpoint),
    }
    return json.dumps(wire, sort_keys=True, separators=(",", ":"))
