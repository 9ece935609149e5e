"""The facts of a finished run in one value, and as rows for a table. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from deepseek_operator.api.v1alpha1 import DeepSeekJob

from deepseek_client.local.history import History, Interruption
from deepseek_client.text import count, duration, number


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything that the report says. None: not known."""

    job: str
    state: str
    reason: str
    workers: int
    wall_s: float
    steps: int | None
    total_steps: int | None
    global_batch_size: int | None
    samples: int | None
    """Samples consumed, from the ledger: each exactly once."""
    chain: str | None
    """Hash chain over the consumed batches."""
    loss: float | None
    validation_loss: float | None
    unigram_entropy: float | None
    tokens_per_second: float | None
    checkpoints: int
    """Checkpoints that were seen committed."""
    checkpoint_path: str | None
    generation: int
    attempt: int
    restarts_application: int
    restarts_infrastructure: int
    restarts_process: int
    restored_from_step: int | None
    goodput: dict[str, float]
    """Seconds by what they were spent on."""
    interruptions: tuple[Interruption, ...]

    @property
    def goodput_ratio(self) -> float | None:
        """Productive share of the wall clock."""
        total = sum(self.goodput.values())
        return self.goodput.get("productive", 0.0) / total if total else None

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"goodput_ratio": self.goodput_ratio}


def summarise(job: DeepSeekJob, history: History) -> Summary:
    """Puts a run's status and history together."""
    status, last = job.status, history.last
    trainer = job.spec.trainer or {}
    checkpoint = status.checkpoint
    goodput = status.goodput.model_dump(exclude={"ratio"}) if status.goodput else {}
    training = status.training
    return Summary(
        job=job.metadata.name,
        state=status.state,
        reason=status.reason,
        workers=job.spec.workers.replicas,
        wall_s=history.wall_s,
        steps=last.step if last else None,
        total_steps=last.total_steps if last else None,
        global_batch_size=_global_batch(trainer),
        samples=last.position if last else None,
        chain=training.chain if training else None,
        loss=last.loss if last else None,
        validation_loss=last.validation_loss if last else None,
        unigram_entropy=last.unigram_entropy if last else None,
        tokens_per_second=last.tokens_per_second if last else None,
        checkpoints=len(history.checkpoints),
        checkpoint_path=checkpoint.path if checkpoint else None,
        generation=status.generation,
        attempt=status.attempt,
        restarts_application=status.restarts.application,
        restarts_infrastructure=status.restarts.infrastructure,
        restarts_process=status.restarts.process,
        restored_from_step=status.restored_from.step if status.restored_from else None,
        goodput={name: float(seconds) for name, seconds in goodput.items()},
        interruptions=tuple(history.interruptions),
    )


def rows(summary: Summary) -> list[tuple[str, str]]:
    """Name and value of every line of the table, in reading order."""
    table = [
        ("state", f"{summary.state} ({summary.reason})" if summary.reason else summary.state),
        ("wall clock", duration(summary.wall_s)),
        ("steps", f"{count(summary.steps)} of {count(summary.total_steps)}"),
        ("samples, each exactly once", _samples(summary)),
        ("data receipt (hash chain)", summary.chain or "—"),
        ("training loss", f"{number(summary.loss)} nats/token"),
        ("validation loss", _validation(summary)),
        ("throughput", f"{count(summary.tokens_per_second)} tokens/s"),
        ("checkpoints committed", str(summary.checkpoints)),
        ("generations", str(summary.generation)),
        ("restarts", _restarts(summary)),
        ("goodput", _goodput(summary)),
    ]
    for interruption in summary.interruptions:
        table += [
            ("interruption", f"{interruption.pod} killed at step {interruption.step}"),
            ("resumed from checkpoint", f"step {count(interruption.resumed_step)}"),
            ("recovery (kill to next step)", _seconds(interruption.recovery_s)),
            ("caught up with the lost step", _seconds(interruption.caught_up_s)),
        ]
    return table


def markdown(summary: Summary) -> str:
    """The report as a page."""
    lines = [f"# {summary.job}: {summary.state}", "", "![Loss over time](report.png)", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in rows(summary)]
    return "\n".join(lines) + "\n"


def _global_batch(trainer: dict[str, Any]) -> int | None:
    size = (trainer.get("training") or {}).get("globalBatchSize")
    if size is None and trainer:
        from deepseek_trainer.config import TrainingSpec

        size = TrainingSpec.model_fields["global_batch_size"].default
    return int(size) if size is not None else None


def _samples(summary: Summary) -> str:
    if summary.samples is None:
        return "—"
    if summary.steps is None or summary.global_batch_size is None:
        return count(summary.samples)
    expected = summary.steps * summary.global_batch_size
    due = f"{count(summary.steps)} steps of {summary.global_batch_size}"
    return (
        f"{count(summary.samples)} ({due})" if expected == summary.samples else f"{count(summary.samples)}, but {due}"
    )


def _validation(summary: Summary) -> str:
    if summary.validation_loss is None or summary.unigram_entropy is None:
        return number(summary.validation_loss)
    gain = summary.unigram_entropy - summary.validation_loss
    side = "under" if gain >= 0 else "over"
    return (
        f"{number(summary.validation_loss)} nats/token, {number(abs(gain))} {side} the corpus' unigram entropy "
        f"of {number(summary.unigram_entropy)}"
    )


def _restarts(summary: Summary) -> str:
    total = summary.restarts_application + summary.restarts_infrastructure
    return (
        f"{total} (infrastructure {summary.restarts_infrastructure}, application {summary.restarts_application}); "
        f"processes in place {summary.restarts_process}"
    )


def _goodput(summary: Summary) -> str:
    if summary.goodput_ratio is None:
        return "—"
    parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in summary.goodput.items() if seconds >= 0.5)
    return f"{summary.goodput_ratio:.0%} of the time was productive ({parts})"


def _seconds(seconds: float | None) -> str:
    return "—" if seconds is None else f"{seconds:.1f} s"
