"""The built-in trainer's run config, made of the job's spec.

Rule: `spec.trainer` and `spec.data` (but for its `ray`, which is the operator's) pass through as they are; their one home
is `deepseek_trainer.config`, which also checks the result when the worker starts. tests/contract proves that what is
rendered here is valid there.
"""

from __future__ import annotations

import json

from deepseek_operator.api.fields import parse_quantity
from deepseek_operator.api.memory import CheckpointMemory
from deepseek_operator.api.names import Paths
from deepseek_operator.api.v1alpha1 import CheckpointInterval, DeepSeekJob, ResumeFrom
from deepseek_operator.render.claims import other_claim

STEPS = 100
"""Between two saves, where nothing else is said."""


def checkpoint_directory(job: DeepSeekJob) -> str | None:
    """The job's folder on the checkpoint volume, as its pods see it; None: it has no such volume.

    The volume is mounted whole and the worker makes the folder. A mount with subPath would be made by the kubelet,
    as root, and on volumes without ownership management no worker could write to it.
    """
    volume = job.spec.checkpoint.volume if job.spec.checkpoint is not None else None
    if volume is None:
        return None
    return f"{Paths.CHECKPOINTS}/{volume.sub_path or job.metadata.name}"


def checkpoint_place(job: DeepSeekJob) -> str | None:
    """The job's folder on the checkpoint volume, or the URL of its part of the object store; None: it doesn't save."""
    store = job.spec.checkpoint.object_store if job.spec.checkpoint is not None else None
    return checkpoint_directory(job) if store is None else store.place(store.sub_path or job.metadata.name)


def _checkpoint_section(job: DeepSeekJob) -> dict[str, object] | None:
    checkpoint = job.spec.checkpoint
    if checkpoint is None:
        return None
    store = checkpoint.object_store
    return {
        "directory": checkpoint_place(job),
        **({"endpoint": store.endpoint_url} if store is not None and store.endpoint_url else {}),
        "mode": checkpoint.mode,
        **_interval(checkpoint.interval),
        "keep": checkpoint.keep,
        "keepSeconds": checkpoint.keep_seconds,
        "keepEverySteps": checkpoint.keep_every_steps,
        "onFailure": checkpoint.on_failure,
        "maxFailures": checkpoint.max_failures,
        **({"memory": _memory(checkpoint.memory)} if checkpoint.memory else {}),
        **({"resumeFrom": _resume_from(job, checkpoint.resume_from)} if checkpoint.resume_from else {}),
    }


def _interval(interval: CheckpointInterval) -> dict[str, object]:
    by_clock = interval.seconds is not None or interval.auto
    steps = interval.steps or (None if by_clock else STEPS)
    return {"everySteps": steps, "everySeconds": interval.seconds, "auto": interval.auto}


def _memory(wanted: CheckpointMemory) -> dict[str, object]:
    return {"directory": Paths.MEMORY, "bytes": int(parse_quantity(wanted.size)), "peer": wanted.peer}


def _resume_from(job: DeepSeekJob, wanted: ResumeFrom) -> dict[str, object]:
    store = job.spec.checkpoint.object_store if job.spec.checkpoint is not None else None
    volume = Paths.RESUME_FROM if other_claim(job) is not None else Paths.CHECKPOINTS
    directory = f"{volume}/{wanted.sub_path}" if store is None else store.place(wanted.sub_path)
    return {"directory": directory, "step": wanted.step, "optimizer": wanted.optimizer}


def run_config_json(job: DeepSeekJob) -> str | None:
    """The value of the run-config annotation; None for a user's own entrypoint, which has no run config."""
    spec = job.spec
    if spec.trainer is None:
        return None
    wire = {
        "job": job.metadata.name,
        "backend": spec.backend,
        "trainer": spec.trainer,
        "data": spec.data.trainers() if spec.data is not None else {},
        "checkpoint": _checkpoint_section(job),
        "dataCache": f"{checkpoint_directory(job) or Paths.RUN_DIR}/data",
    }
    return json.dumps(wire, sort_keys=True, separators=(",", ":"))
