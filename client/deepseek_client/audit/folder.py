"""The audit of a folder on this machine: a job's checkpoint folder, or the work folder of `dsj run`."""

from __future__ import annotations

from pathlib import Path

from deepseek_operator.render.runconfig import checkpoint_place

from deepseek_client.audit.answer import Answer, compared, parse, status_step
from deepseek_client.beside.folder import checkpoint_folder, local_job
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
    store = job.spec.checkpoint.object_store if job.spec.checkpoint is not None else None
    if store is not None:
        return compared(_proof(str(checkpoint_place(job)), status_step(job), store.endpoint_url or ""), job)
    return compared(_proof(checkpoint_folder(path, job), status_step(job)), job)


def _proof(where: Path | str, at: int | None, endpoint: str = "") -> Answer:
    import json

    try:
        from deepseek_trainer.data.audit.summary import answer
    except ModuleNotFoundError as error:
        raise ClientError(f"the audit of a folder needs {error.name}: install deepseek-client[local]") from error
    return parse(json.dumps(answer(where, at=at, endpoint=endpoint)))
