"""The `dsj` command. Exit status: 0 done; 1 the job failed, its audit or its export; 2 the input is wrong or the cluster said no; 130 Ctrl-C.

Rule: a user sees one line for one error, and never a traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Never

import typer
from deepseek_operator.api.names import State
from rich.console import Console

from deepseek_client import cli_beside, layers, manifest, profiles
from deepseek_client import console as shown
from deepseek_client.cli_options import Context, Format, Kubeconfig, Name, Namespace, Output
from deepseek_client.errors import ClientError
from deepseek_client.sdk import DeepSeekJobClient

app = typer.Typer(
    name="dsj",
    help="Train DeepSeek models: on this machine (run), or as DeepSeekJobs on Kubernetes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


ProfileFile = Annotated[
    Path | None, typer.Option(metavar="PROFILE.yaml", help="The DeepSeekProfile that the job names.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Another value for a field, as spec.trainer.training.steps=50."),
]
Presets = Annotated[
    list[str] | None,
    typer.Option(
        "--preset", metavar="NAME|FILE", help="What lies below the manifest; `dsj presets` lists those that are here."
    ),
]
ManifestPath = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="Manifest of a DeepSeekJob.")]


def main(arguments: Sequence[str] | None = None) -> Never:
    """The console script: the command, and every error of ours as one line and an exit status.

    Args:
        arguments: what follows the command's name; None: the process' own.
    """
    try:
        app(args=arguments, prog_name="dsj")
    except ClientError as error:
        for line in str(error).splitlines():
            Console(stderr=True).print(f"dsj: {line}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_status)
    sys.exit(0)


@app.command()
def run(  # noqa: PLR0913, PLR0917  a parameter is an option
    job: ManifestPath,
    kill_one: Annotated[
        bool, typer.Option("--kill-one", help="Kill one worker midway, as if its machine died, and watch it recover.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Folder for report.png, report.md and report.json.")] = None,
    workdir: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints and logs; used again, training goes on from there.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the work folder after a success.")] = False,
    volume: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="Folder for this PersistentVolumeClaim, ConfigMap or Secret."),
    ] = None,
    profile_file: ProfileFile = None,
    presets: Presets = None,
    changes: Changes = None,
) -> None:
    """Run a manifest on this machine: the same job, the same operator logic, processes for pods."""
    try:
        from deepseek_client.local import command
    except ModuleNotFoundError as error:
        raise ClientError(f"local mode needs {error.name}: install deepseek-client[local]") from error

    options = command.Options(
        kill_one,
        report,
        workdir,
        keep,
        dict(_volume(text) for text in volume or []),
        profile_file,
        layers.parse(presets or [], changes or []),
    )
    raise typer.Exit(command.run(job, options, _out()))


@app.command()
def validate(
    job: ManifestPath, profile_file: ProfileFile = None, presets: Presets = None, changes: Changes = None
) -> None:
    """Check a manifest of a job, a profile or both without a cluster: one line for each wrong field."""
    around = layers.parse(presets or [], changes or [])
    jobs, given = profiles.read(job, profile_file, around)
    lines = [f"DeepSeekProfile {name} is valid" for name in given]
    for one in jobs:
        unchecked = one.spec.profile is not None and profile_file is None and not given
        if not unchecked:
            profiles.complete(job, profile_file, around)
        note = f"; its profile {one.spec.profile} was not given: --profile-file checks both" if unchecked else ""
        lines.append(f"DeepSeekJob {one.metadata.name} is valid{note}")
    for line in lines:
        _out().print(f"{job}: {line}", highlight=False, soft_wrap=True)


@app.command()
def plan(
    job: ManifestPath,
    gpu: Annotated[
        str | None, typer.Option(help="a100-40, a100-80, h100, h200, b200 or l40s; default: the job's.")
    ] = None,
    model_config: Annotated[
        Path | None, typer.Option(metavar="config.json", help="Of the model, where task finetune reads it on a volume.")
    ] = None,
    profile_file: ProfileFile = None,
    presets: Presets = None,
    changes: Changes = None,
) -> None:
    """Estimate what a job takes: memory of each GPU, traffic of a step, its time; and what parallelism.auto would choose."""
    try:
        from deepseek_client import plan as planning
    except ModuleNotFoundError as error:
        raise ClientError(f"plan needs {error.name}: install deepseek-client[local]") from error
    whole = profiles.complete(job, profile_file, layers.parse(presets or [], changes or []))
    for line in planning.told(whole.job, gpu, model_config):
        _out().print(line, highlight=False, markup=False, soft_wrap=True)


@app.command("presets")
def list_presets(
    name: Annotated[str | None, typer.Argument(help="Of a preset, which is printed.")] = None,
) -> None:
    """List the presets that --preset takes by name, or print one."""
    if name is not None:
        _out().out(layers.text(name), highlight=False, end="")
        return
    for known, said in layers.shipped().items():
        _out().print(
            f"{known}: {said.splitlines()[0].removeprefix('# ')}", highlight=False, markup=False, soft_wrap=True
        )


@app.command()
def submit(
    job: ManifestPath,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    output: Format = Output.TABLE,
    presets: Presets = None,
    changes: Changes = None,
) -> None:
    """Create a job on the cluster."""
    around = layers.parse(presets or [], changes or [])
    with DeepSeekJobClient(kubeconfig, context, namespace) as client:
        created = client.submit(around.around(manifest.load(job)) if presets or changes else job, namespace)
    if output is Output.JSON:
        shown.print_json(_out(), shown.as_dict(created))
    else:
        name, where = created.metadata.name, created.metadata.namespace
        _out().print(f"{where}/{name} created; follow it with: dsj watch {name} -n {where}", highlight=False)


@app.command("list")
def list_jobs(
    namespace: Namespace = None,
    all_namespaces: Annotated[bool, typer.Option("-A", "--all-namespaces", help="Jobs of all namespaces.")] = False,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    output: Format = Output.TABLE,
) -> None:
    """List jobs."""
    with DeepSeekJobClient(kubeconfig, context, namespace) as client:
        jobs = client.list(all_namespaces=all_namespaces)
        where = client.namespace
    if output is Output.JSON:
        shown.print_json(_out(), [shown.as_dict(job) for job in jobs])
    elif jobs:
        _out().print(shown.jobs_table(jobs, datetime.now(UTC), all_namespaces))
    else:
        _out().print("no jobs" if all_namespaces else f"no jobs in namespace {where}", highlight=False)


@app.command()
def get(
    name: Name,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    output: Format = Output.TABLE,
) -> None:
    """Show one job."""
    with DeepSeekJobClient(kubeconfig, context, namespace) as client:
        job = client.get(name)
    shown.print_answer(_out(), output is Output.JSON, shown.as_dict(job), shown.job_table(job))


@app.command()
def watch(
    name: Name,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds to watch at most.")] = None,
) -> None:
    """Follow a job until it ends. Exit status 0 when it succeeded, 1 when it failed."""
    from rich.live import Live

    out, state = _out(), ""
    with DeepSeekJobClient(kubeconfig, context, namespace) as client:
        changes = client.watch(name, timeout_s=timeout)
        if out.is_terminal:
            with Live(console=out, refresh_per_second=4) as live:
                for job in changes:
                    live.update(shown.job_table(job))
                    state = job.status.state
        else:
            for job in changes:
                out.print(shown.one_line(job), highlight=False, markup=False, soft_wrap=True)
                state = job.status.state
    raise typer.Exit(1 if state == State.FAILED else 0)


@app.command()
def logs(
    name: Name,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the workers end.")] = False,
    rank: Annotated[int | None, typer.Option(min=0, help="The worker that runs this global rank; default 0.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All workers, each line with its pod's name.")] = False,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Print the output of a job's workers."""
    if everything and rank is not None:
        raise ClientError("give --rank or --all, not both")
    with DeepSeekJobClient(kubeconfig, context, namespace) as client:
        job = client.get(name)
        pods = shown.choose(client.pods(name), job, rank, everything)
        shown.print_logs(_out(), client, pods, None, follow)


for command in (cli_beside.audit, cli_beside.checkpoints, cli_beside.export):
    app.command()(command)


@app.command()
def suspend(name: Name, namespace: Namespace = None, kubeconfig: Kubeconfig = None, context: Context = None) -> None:
    """Stop a job: its pods save and go, until it is resumed."""
    with DeepSeekJobClient(kubeconfig, context, namespace) as client:
        client.suspend(name)
        _out().print(f"{client.namespace}/{name} suspended; go on with: dsj resume {name}", highlight=False)


@app.command()
def resume(name: Name, namespace: Namespace = None, kubeconfig: Kubeconfig = None, context: Context = None) -> None:
    """Let a suspended job go on from its last checkpoint."""
    with DeepSeekJobClient(kubeconfig, context, namespace) as client:
        client.resume(name)
        _out().print(f"{client.namespace}/{name} resumed", highlight=False)


@app.command()
def scale(
    name: Name,
    workers: Annotated[int, typer.Argument(min=1, help="Number of workers.")],
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Give an elastic job another number of workers."""
    with DeepSeekJobClient(kubeconfig, context, namespace) as client:
        client.scale(name, workers)
        _out().print(f"{client.namespace}/{name} scaled to {workers}", highlight=False)


@app.command()
def delete(name: Name, namespace: Namespace = None, kubeconfig: Kubeconfig = None, context: Context = None) -> None:
    """Delete a job and its pods. Checkpoints stay on their volume, unless its template says onDelete: Delete."""
    with DeepSeekJobClient(kubeconfig, context, namespace) as client:
        client.delete(name)
        _out().print(f"{client.namespace}/{name} deleted", highlight=False)


def _volume(text: str) -> tuple[str, Path]:
    name, found, folder = text.partition("=")
    if not found or not name or not folder:
        raise ClientError(f"--volume {text}: write NAME=FOLDER")
    if not Path(folder).is_dir():
        raise ClientError(f"--volume {text}: {folder} is not a folder")
    return name, Path(folder)


def _out() -> Console:
    return Console()


if __name__ == "__main__":
    main()
