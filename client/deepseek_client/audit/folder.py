"""The audit of a folder on this machine: a job's checkpoint folder, or the work folder of `dsj run`."""

from __future__ import annotations

from pathlib import Path

from deepseek_operator.api.v1alpha1 import DeepSeekJob

from deepseek_client.audit.answer import Answer, compared, parse, status_step
from deepseek_client.errors import ClientError


def audit_folder(path: Path) -> Answer:
    """Proves or refutes, in this process.

    Args:
        path: the job's checkpoint folder, or a work folder, whose job's status is then compared too.

    Raises:
        ClientError: the trainer isn't installed here, or the work folder's job keeps no audit.
    """
    job = local_job(path)
    if job is None:
        return _proof(path, None)
    return compared(_proof(checkpoint_folder(path, job), status_step(job)), job)


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
    if job.spec.checkpoint is None:
        raise ClientError(f"{work}: job {job.metadata.name} has no checkpoint volume, and so no checkpoints")
    volume = job.spec.checkpoint.volume
    folder = work / "claims" / volume.claim_name / (volume.sub_path or job.metadata.name)
    if not folder.is_dir():
        raise ClientError(f"{folder} is no folder; if claim {volume.claim_name} was another one (--volume), give that")
    return folder


def _proof(path: Path, at: int | None) -> Answer:
    import json

    try:
        from deepseek_trainer.data.audit.summary import answer
    except ModuleNotFoundError as error:
        raise ClientError(f"the audit of a folder needs {error.name}: install deepseek-client[local]") from error
    return parse(json.dumps(answer(path, at=at)))
