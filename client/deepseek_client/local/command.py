"""`dsj run`: from a manifest's path to an exit status. Everything that talks to a person about a local run is here."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from deepseek_operator.api.names import State
from deepseek_operator.api.v1alpha1 import DeepSeekJob
from deepseek_operator.decide import decide
from deepseek_operator.decide.effective import Effective
from rich.console import Console

from deepseek_client import profiles
from deepseek_client.errors import ClientError
from deepseek_client.layers import Layers
from deepseek_client.local.display import view
from deepseek_client.local.fault import KillOne
from deepseek_client.local.folders import Folders
from deepseek_client.local.history import History
from deepseek_client.local.run import Interrupt, LocalRun, interruptible
from deepseek_client.local.world import LocalWorld

EXIT_FAILED = 1


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    kill_one: bool = False
    report: Path | None = None
    workdir: Path | None = None
    """Folder for the run; None: a new one under .runs/, removed after a success unless `keep`."""
    keep: bool = False
    volumes: dict[str, Path] = field(default_factory=dict)
    """Folders by name of the claim, ConfigMap or Secret that they stand for."""
    profile_file: Path | None = None
    """Where the job's profile is; None: in the manifest itself, if it names one."""
    layers: Layers = profiles.ALONE
    """Presets below the job, and other values for its fields."""


def run(path: Path, options: Options, console: Console) -> int:
    """Runs a manifest on this machine.

    Returns:
        0 succeeded; 1 failed; 128 + the signal's number when it was interrupted.

    Raises:
        ClientError: the manifest is wrong, or this machine can't run it.
    """
    whole = profiles.complete(path, options.profile_file, options.layers)
    if whole.job.spec.suspend:
        raise ClientError(f"{path}: spec.suspend is true, and nobody would resume the job here; set it to false")
    root = options.workdir or _new_folder(whole.job.metadata.name)
    folders = Folders(root.resolve(), {name: folder.resolve() for name, folder in options.volumes.items()})
    _make(folders.root)
    console.print(f"work folder {folders.root}", highlight=False, soft_wrap=True)
    with interruptible() as interrupt:
        job, history, world = _drive(whole, folders, options, console, interrupt)
    code = _verdict(job, interrupt)
    if options.report is not None or code == 0:
        _report(job, history, options.report, console)
    if job.status.state == State.FAILED:
        _explain(job, world, console)
    if interrupt.number is not None:
        console.print(f"stopped by {interrupt.number.name}; no process is left, the work folder is kept")
    if code == 0 and options.workdir is None and not options.keep:
        shutil.rmtree(folders.root, ignore_errors=True)
        console.print("work folder removed; keep it with --keep or --workdir DIR", highlight=False)
    return code


def _drive(
    whole: Effective, folders: Folders, options: Options, console: Console, interrupt: Interrupt
) -> tuple[DeepSeekJob, History, LocalWorld]:
    with LocalWorld(whole.job, folders, profile=whole.profile) as world, view(console) as shown:
        runner = LocalRun(world, shown, decide, KillOne() if options.kill_one else None)
        return runner.run(interrupt), runner.history, world


def _verdict(job: DeepSeekJob, interrupt: Interrupt) -> int:
    if job.status.state == State.SUCCEEDED:
        return 0
    return EXIT_FAILED if interrupt.number is None else 128 + int(interrupt.number)


def _report(job: DeepSeekJob, history: History, folder: Path | None, console: Console) -> None:
    from deepseek_client.report import summary, write  # matplotlib takes a second to import

    facts = summary.summarise(job, history)
    write.table(console, facts)
    if folder is not None:
        for path in write.write(folder, facts, history):
            console.print(f"wrote {path}", highlight=False, soft_wrap=True)


def _explain(job: DeepSeekJob, world: LocalWorld, console: Console) -> None:
    """The failure's evidence: what the status says, the workers' last words, and where the logs are."""
    status = job.status
    reason = next((c for c in status.conditions if c.type == "Failed" and c.status == "True"), None)
    console.print(f"failed: {status.reason}: {reason.message if reason else ''}", style="red", markup=False)
    for failure in status.failures[:3]:
        code = "vanished" if failure.exit_code is None else f"exit status {failure.exit_code}"
        rank = "" if failure.rank is None else f", rank {failure.rank}"
        line = f"  {failure.pod}{rank}: {failure.reason} ({code}): {failure.message.strip()}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for pod in world.logs[-job.spec.workers.replicas :]:
        console.print(f"  log: {world.folders.log(pod)}", markup=False, highlight=False, soft_wrap=True)


def _new_folder(name: str) -> Path:
    """The next free .runs/<name>-<n> in the current directory."""
    number = 1
    while Path(".runs", f"{name}-{number}").exists():
        number += 1
    return Path(".runs", f"{name}-{number}")


def _make(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClientError(f"work folder {root}: {error.strerror or error}; choose another with --workdir") from error
