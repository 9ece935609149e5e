"""A job's checkpoint folder on this machine: given itself, or in the work folder of `dsj run`."""

from __future__ import annotations

from pathlib import Path

from deepseek_operator.api.v1alpha1 import DeepSeekJob
from deepseek_operator.render.claims import own_claim
from deepseek_operator.render.runconfig import checkpoint_place

from deepseek_client.errors import ClientError


def local_job(path: Path) -> DeepSeekJob | None:
    """The job of a work folder of `dsj run`; None: it is no work folder."""
    file = path / "job.json"
    if not file.is_file():
        return None
    try:
        return DeepSeekJob.model_validate_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ClientError(f"{file}: can't be read as a DeepSeekJob; give the job's checkpoint folder itself") from error


def checkpoint_folder(work: Path, job: DeepSeekJob) -> Path:
    """Where a job of `dsj run` has its checkpoints."""
    claim, volume = own_claim(job), job.spec.checkpoint.volume if job.spec.checkpoint is not None else None
    if job.spec.checkpoint is not None and volume is None:
        raise ClientError(
            f"{work}: job {job.metadata.name} has its checkpoints in an object store; ask there: "
            f"python -m deepseek_trainer.checkpoint {checkpoint_place(job)}"
        )
    if claim is None or volume is None:
        raise ClientError(f"{work}: job {job.metadata.name} has no checkpoint volume, and so no checkpoints")
    folder = work / "claims" / claim / (volume.sub_path or job.metadata.name)
    if not folder.is_dir():
        raise ClientError(f"{folder} is no folder; if claim {claim} was another one (--volume), give that")
    return folder


def given_folder(path: Path) -> Path:
    """The checkpoint folder that is meant by either."""
    job = local_job(path)
    return path if job is None else checkpoint_folder(path, job)
