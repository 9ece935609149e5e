"""Arguments and options that more than one command of `dsj` has."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Output(StrEnum):
    """How an answer is printed."""

    TABLE = "table"
    JSON = "json"


Name = Annotated[str, typer.Argument(help="Name of the job.")]
Namespace = Annotated[str | None, typer.Option("-n", "--namespace", help="Namespace; default: the context's.")]
Kubeconfig = Annotated[Path | None, typer.Option(help="Kubeconfig; default: $KUBECONFIG or ~/.kube/config.")]
Context = Annotated[str | None, typer.Option(help="Context of the kubeconfig.")]
Format = Annotated[Output, typer.Option("-o", "--output", help="table or json.")]

NameOrFolder = Annotated[str | None, typer.Argument(help="Name of a job on the cluster.")]
Folder = Annotated[
    Path | None,
    typer.Option(help="Instead of a job: its checkpoint folder, or the work folder of `dsj run`, on this machine."),
]
Timeout = Annotated[float, typer.Option(min=1, help="Seconds for the pod to start and to end.")]
Memory = Annotated[str, typer.Option(help="Memory limit of the pod.")]
