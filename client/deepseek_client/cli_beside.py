"""The commands of `dsj` that do something where a job's checkpoints are: by a pod beside the volume, or in a folder here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deepseek_client import console as shown
from deepseek_client.cli_options import (
    Context,
    Folder,
    Format,
    Kubeconfig,
    Memory,
    NameOrFolder,
    Namespace,
    Output,
    Timeout,
)
from deepseek_client.errors import ClientError
from deepseek_client.sdk import DeepSeekJobClient


class Dtype(StrEnum):
    """Type of exported weights."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def audit(
    name: NameOrFolder = None,
    folder: Folder = None,
    timeout: Timeout = 300,
    memory: Memory = "1Gi",
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    output: Format = Output.TABLE,
) -> None:
    """Prove that a job with data.audit lost and repeated no sample. Exit status 0 proven, 1 not, 2 it can't be judged."""
    if folder is not None:
        from deepseek_client.audit.folder import audit_folder

        _only_a_folder(name)
        answer = audit_folder(folder)
    else:
        from deepseek_client.audit.cluster import audit_job

        with _cluster(name, namespace, kubeconfig, context) as (client, job):
            answer = audit_job(client, job, timeout_s=timeout, memory=memory)
    shown.print_answer(Console(), output is Output.JSON, answer.facts, shown.audit_table(name or str(folder), answer))
    raise typer.Exit(answer.exit_status)


def checkpoints(  # noqa: PLR0913, PLR0917  a parameter is an option
    name: NameOrFolder = None,
    folder: Folder = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read and hash every file, as a start does.")] = False,
    trust: Annotated[
        int | None,
        typer.Option(metavar="STEP", help="Let this one count again, after it was marked bad because training failed."),
    ] = None,
    timeout: Timeout = 300,
    memory: Memory = "1Gi",
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    output: Format = Output.TABLE,
) -> None:
    """List a job's checkpoints: step, state, time, size, ranks, samples, tokens, loss; and why one is passed over."""
    from deepseek_client import checkpoints as asked

    question = asked.Question(verify, trust)
    if folder is not None:
        _only_a_folder(name)
        found = asked.of_folder(folder, question)
    else:
        with _cluster(name, namespace, kubeconfig, context) as (client, job):
            found = asked.of_job(client, job, question, timeout_s=timeout, memory=memory)
    facts = {"checkpoints": found.rows, "leftOut": found.left_out}
    table = shown.checkpoints_table(name or str(folder), found.rows, found.left_out)
    shown.print_answer(Console(), output is Output.JSON, facts, table)


def export(  # noqa: PLR0913, PLR0917  a parameter is an option
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="[JOB] TARGET",
            help="Name of a job on the cluster (not with --folder), and the folder that is to be made: in the root of the "
            "job's volume or of --claim; with --folder on this machine.",
        ),
    ],
    folder: Folder = None,
    claim: Annotated[
        str | None, typer.Option(help="PersistentVolumeClaim that the target is on; default: the job's own.")
    ] = None,
    step: Annotated[int | None, typer.Option(min=0, help="Of the checkpoint; default: the newest whole one.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Of the weights; default: as trained.")] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="tokenizer.json, from the root of the job's volume; default: that of the job's data."
        ),
    ] = None,
    ema: Annotated[
        bool, typer.Option("--ema", help="The moving average of the weights (trainer.optimizer.ema).")
    ] = False,
    timeout: Timeout = 3600,
    memory: Memory = "8Gi",
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Write a checkpoint as a Hugging Face model. Exit status 0 done, 1 nothing was exported, 2 it could not be tried."""
    from deepseek_client import export as asked

    if len(paths) != (2 if folder is None else 1):
        raise ClientError("give JOB and TARGET, or --folder and TARGET")
    if folder is not None and claim is not None:
        raise ClientError("--claim is for a job on the cluster; with --folder, TARGET is on this machine")
    wanted = asked.Wanted(paths[-1], step, dtype.value if dtype is not None else None, tokenizer, ema)
    if folder is not None:
        said = asked.of_folder(folder, wanted, told=_line)
    else:
        with _cluster(paths[0], namespace, kubeconfig, context) as (client, job):
            said = asked.of_job(client, job, wanted, claim=claim, timeout_s=timeout, memory=memory, told=_line)
    _line(said)


@contextmanager
def _cluster(
    name: str | None, namespace: str | None, kubeconfig: Path | None, context: str | None
) -> Iterator[tuple[DeepSeekJobClient, str]]:
    """A client, and the job's name. What was made there is taken away however the command ends."""
    if name is None:
        raise ClientError("give the name of a job, or --folder")
    with DeepSeekJobClient(kubeconfig, context, namespace) as client, shown.told_to_end():
        yield client, name


def _only_a_folder(name: str | None) -> None:
    if name is not None:
        raise ClientError("give the name of a job, or --folder")


def _line(text: str) -> None:
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
