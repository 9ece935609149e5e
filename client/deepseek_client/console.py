"""DeepSeekJobs of a cluster on a terminal: the list, one job, and the logs of several workers in one stream."""

from __future__ import annotations

import json
import queue
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from deepseek_operator.api.v1alpha1 import DeepSeekJob
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deepseek_client.audit.answer import Answer
from deepseek_client.errors import ClientError
from deepseek_client.sdk import DeepSeekJobClient, Pod
from deepseek_client.text import duration

STYLES = {"Running": "green", "Succeeded": "bold green", "Failed": "bold red", "Restarting": "yellow"}
_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")


def as_dict(job: DeepSeekJob) -> dict[str, Any]:
    """The job as the API server has it."""
    return job.model_dump(by_alias=True, exclude_none=True, mode="json")


def print_json(console: Console, value: object) -> None:
    """JSON that a program can read: no colours, no wrapping."""
    console.print(json.dumps(value, indent=2), markup=False, highlight=False, soft_wrap=True)


def print_answer(console: Console, as_json: bool, facts: object, table: Table) -> None:
    """One answer, for a program or for people."""
    if as_json:
        print_json(console, facts)
    else:
        console.print(table)


def jobs_table(jobs: Iterable[DeepSeekJob], now: datetime, namespaces: bool) -> Table:
    """One line a job, with the columns of `kubectl get dsj`."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    columns = ("NAME", "STATE", "NODES", "STEP", "PROGRESS", "LOSS", "RESTARTS", "ETA", "AGE")
    for column in (("NAMESPACE",) if namespaces else ()) + columns:
        table.add_column(column, no_wrap=True)
    for job in jobs:
        status, training = job.status, job.status.training
        cells = [
            job.metadata.name,
            f"[{STYLES.get(status.state, 'cyan')}]{status.state}[/]",
            status.ready_nodes or "",
            "" if training is None or training.step is None else str(training.step),
            (training.percent if training else None) or "",
            (training.loss if training else None) or "",
            str(status.total_restarts),
            (training.eta if training else None) or "",
            age(job, now),
        ]
        table.add_row(*([job.metadata.namespace] if namespaces else []), *cells)
    return table


def age(job: DeepSeekJob, now: datetime) -> str:
    """Time since the job was created."""
    created = job.metadata.creation_timestamp
    return duration((now - datetime.fromisoformat(created)).total_seconds()) if created else ""


def job_table(job: DeepSeekJob) -> Table:
    """Everything about one job that a person asks first."""
    status, training = job.status, job.status.training
    table = Table(show_header=False, title=f"{job.metadata.namespace}/{job.metadata.name}", title_style="bold")
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    state = f"[{STYLES.get(status.state, 'cyan')}]{status.state}[/]"
    table.add_row("state", f"{state} {status.reason}")
    table.add_row("nodes", f"{status.ready_nodes or '—'}, generation {status.generation}, attempt {status.attempt}")
    if training is not None:
        step = (
            "—" if training.step is None else f"{training.step} of {training.total_steps} ({training.percent or '—'})"
        )
        table.add_row("step", f"{step}, {training.phase}, ETA {training.eta or '—'}")
        table.add_row("loss", f"{training.loss or '—'}, validation {training.validation_loss or '—'}")
        table.add_row("tokens/s", str(training.tokens_per_second or "—"))
    if status.checkpoint is not None:
        table.add_row("checkpoint", f"step {status.checkpoint.step}, {status.checkpoint.path}")
    if status.restored_from is not None:
        table.add_row("restored from", f"step {status.restored_from.step}, {status.restored_from.path}")
        for refused in status.restored_from.passed_over or ():
            table.add_row("  passed over", Text(refused))
    restarts = status.restarts
    table.add_row(
        "restarts",
        f"application {restarts.application}, infrastructure {restarts.infrastructure}, process {restarts.process}",
    )
    for condition in status.conditions:
        if condition.status == "True":
            table.add_row(f"  {condition.type}", f"{condition.reason}: {condition.message}")
    for failure in status.failures:
        code = "vanished" if failure.exit_code is None else f"exit status {failure.exit_code}"
        table.add_row("failure", f"{failure.time} {failure.pod}: {failure.reason} ({code}) {failure.message}")
    return table


def audit_table(subject: str, answer: Answer) -> Table:
    """What an audit said, a row for each thing."""
    table = Table(show_header=False, title=Text(f"audit of {subject}"), title_style="bold")
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    style = {0: "bold green", 1: "bold red"}.get(answer.exit_status, "yellow")
    for number, (name, said) in enumerate(answer.rows):
        table.add_row(Text(name), Text(said, style=style if number == 0 else ""))
    return table


_CHECKPOINT_COLUMNS = {"worldSize": "ranks", "bytes": "size"}
_CHECKPOINT_FACTS = ("step", "state", "verified", "time", "bytes", "worldSize", "samples", "tokens", "loss")


def checkpoints_table(subject: str, rows: list[dict[str, Any]], left_out: int) -> Table:
    """A job's checkpoints, newest first, and why one is passed over."""
    caption = [f"step {row.get('step')}: {row['problem']}" for row in rows if row.get("problem")]
    if left_out:
        caption.append(f"{left_out} older ones are left out")
    table = Table(title=Text(f"checkpoints of {subject}"), title_style="bold", caption=Text("\n".join(caption)))
    for name in _CHECKPOINT_FACTS:
        table.add_column(_CHECKPOINT_COLUMNS.get(name, name), no_wrap=name != "state")
    for row in rows:
        style = {"whole": "green", "uncommitted": "yellow"}.get(str(row.get("state")), "red")
        table.add_row(
            *(Text(_shown(name, row.get(name)), style=style if name == "state" else "") for name in _CHECKPOINT_FACTS)
        )
    return table


def _shown(name: str, value: object) -> str:
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "bytes" and isinstance(value, int):
        return f"{value / 1e6:,.1f} MB"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def told_to_end() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does, so that what it has made is taken away."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    earlier = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


def one_line(job: DeepSeekJob) -> str:
    """The job in one line, for `watch` where the output is no terminal."""
    status, training = job.status, job.status.training
    parts = [datetime.now(UTC).strftime("%H:%M:%S"), job.metadata.name, status.state, status.reason]
    parts.append(f"nodes {status.ready_nodes or '—'}")
    if training is not None and training.step is not None:
        parts.append(
            f"step {training.step}/{training.total_steps} loss {training.loss or '—'} ETA {training.eta or '—'}"
        )
    return "  ".join(part for part in parts if part)


def choose(pods: list[Pod], job: DeepSeekJob, rank: int | None, everything: bool) -> list[Pod]:
    """The pods whose logs were asked for: of all workers, or of the one that runs a global rank (default 0).

    Raises:
        ClientError: there is no such worker.
    """
    if not pods:
        raise ClientError(f"job {job.metadata.name}: has no worker pods (state {job.status.state})")
    if everything:
        return pods
    node = (rank or 0) // job.spec.workers.processes()
    chosen = [pod for pod in pods if (pod.slot if pod.node_rank is None else pod.node_rank) == node]
    if not chosen:
        last = job.spec.workers.replicas * job.spec.workers.processes() - 1
        raise ClientError(f"job {job.metadata.name}: has no rank {rank}; its ranks are 0 to {last}")
    return chosen[:1]


def print_logs(
    console: Console, client: DeepSeekJobClient, pods: list[Pod], namespace: str | None, follow: bool
) -> None:
    """The output of one worker as it is, or of several with their names before each line.

    Raises:
        ClientError: the logs of a worker can't be read.
    """
    if len(pods) == 1:
        for line in client.logs(pods[0].name, namespace, follow):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        return
    for pod, line in _merged(client, pods, namespace, follow):
        colour = _COLOURS[pod.slot % len(_COLOURS)]
        console.print(f"{pod.name} | ", end="", style=colour, highlight=False, soft_wrap=True)
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _merged(
    client: DeepSeekJobClient, pods: list[Pod], namespace: str | None, follow: bool
) -> Iterator[tuple[Pod, str]]:
    """Lines of several pods in the order in which they come; one thread reads each."""
    lines: queue.Queue[tuple[Pod, str | ClientError | None]] = queue.Queue(maxsize=1000)

    def read(pod: Pod) -> None:
        try:
            for line in client.logs(pod.name, namespace, follow):
                lines.put((pod, line))
        except ClientError as error:
            lines.put((pod, error))
        finally:
            lines.put((pod, None))

    for pod in pods:
        threading.Thread(target=read, args=(pod,), daemon=True).start()
    left = len(pods)
    while left:
        pod, item = lines.get()
        if item is None:
            left -= 1
        elif isinstance(item, ClientError):
            yield pod, f"({item})"
        else:
            yield pod, item
