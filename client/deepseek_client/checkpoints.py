"""`dsj checkpoints`: what a job has on its volume, asked where the volume is: here, or by a pod beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_client.beside.answer import understood
from deepseek_client.beside.folder import given_folder
from deepseek_client.beside.pod import Errand
from deepseek_client.beside.run import run
from deepseek_client.errors import ClientError
from deepseek_client.sdk import DeepSeekJobClient

MODULE = "deepseek_trainer.checkpoint"


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        verify: hash every file, as a start does.
        trust: step of a checkpoint that was marked bad and is to count again.
    """

    verify: bool = False
    trust: int | None = None

    def arguments(self) -> tuple[str, ...]:
        trust = ("--trust", str(self.trust)) if self.trust is not None else ()
        return (*(("--verify",) if self.verify else ()), *trust)


@dataclass(frozen=True)
class Listing:
    """The newest checkpoints, and how many older ones there was no room for."""

    rows: list[dict[str, Any]]
    left_out: int = 0


def of_job(
    client: DeepSeekJobClient, name: str, question: Question, *, timeout_s: float = 300, memory: str = "1Gi"
) -> Listing:
    """Asks by a pod, which needs the right to create, get and delete pods in the job's namespace.

    Raises:
        NotFoundError: there is no such job.
        ClientError: the job has no volume; or the pod may not be made, does not start, or gives no answer.
    """
    errand = Errand(
        "checkpoints",
        MODULE,
        question.arguments(),
        memory=memory,
        timeout_s=timeout_s,
        writes=question.trust is not None,
    )
    return parse(run(client, client.get(name), errand))


def of_folder(path: Path, question: Question) -> Listing:
    """Asks in this process.

    Args:
        path: the job's checkpoint folder, or the work folder of `dsj run`.

    Raises:
        ClientError: the trainer isn't installed here, or there are no checkpoints.
    """
    try:
        from deepseek_trainer.checkpoint import listing
        from deepseek_trainer.errors import TrainerError
    except ModuleNotFoundError as error:
        raise ClientError(f"a folder's checkpoints need {error.name}: install deepseek-client[local]") from error
    folder = given_folder(path)
    try:
        if question.trust is not None:
            listing.trust(folder, question.trust)
        return Listing(listing.checkpoints(folder, content=question.verify))
    except TrainerError as error:
        raise ClientError(str(error)) from error


def parse(text: str) -> Listing:
    """The answer of a pod.

    Raises:
        ClientError: it is none, or says what is wrong.
    """
    with understood(text, "the pod gave no list of checkpoints") as said:
        return Listing([dict(row) for row in said["checkpoints"]], int(said["leftOut"]))
