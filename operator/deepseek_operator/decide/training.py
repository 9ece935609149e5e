"""Policy: what the workers report becomes status.training, checkpoint, restoredFrom and goodput.

Rule: only a report of the present generation counts. One of an older generation speaks of a past that was
rolled back, and must never overwrite the present.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from deepseek_operator.api.v1alpha1 import (
    CheckpointStatus,
    DataStatus,
    GoodputStatus,
    RestoredFrom,
    Status,
    TrainingProgress,
)
from deepseek_operator.decide.activity import active_s
from deepseek_operator.decide.gang import rank_zero
from deepseek_operator.decide.report import GOODPUT_KEYS, parse_report
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Progress


def training(turn: Turn) -> Turn:
    """Folds the newest report of the present generation into the status."""
    report = _newest(turn)
    if report is None:
        return turn
    restarts = turn.status.restarts
    process = max(restarts.process, report.process_restarts)
    return replace(turn, report=report).changed(
        training=progress_fields(report),
        data=_data(report) or turn.status.data,
        checkpoint=_checkpoint(report) or turn.status.checkpoint,
        restored_from=_restored_from(report) or turn.status.restored_from,
        restarts=restarts.model_copy(update={"process": process}),
        goodput=_goodput(turn, report) or turn.status.goodput,
    )


def _newest(turn: Turn) -> Progress | None:
    """The last words of node rank 0 if it has ended, else what it answered."""
    pod = rank_zero(turn.seen, turn.status).pod
    ended = pod is not None and pod.phase in ("Succeeded", "Failed")
    last_words = parse_report(pod.message) if pod is not None and ended else None
    for report in (last_words, turn.seen.progress):
        if report is not None and report.generation == turn.status.generation:
            return report
    return None


def progress_fields(report: Progress) -> TrainingProgress:
    """The report as people read it; `time` is set when it is written."""
    return TrainingProgress(
        phase=report.phase,
        step=report.step,
        total_steps=report.total_steps,
        percent=percent(report.step, report.total_steps),
        epoch=report.epoch,
        samples=report.position,
        chain=report.chain,
        loss=significant(report.loss),
        validation_loss=significant(report.validation_loss),
        unigram_entropy=significant(report.unigram_entropy),
        tokens_per_second=None if report.tokens_per_second is None else round(report.tokens_per_second),
        eta=None if report.eta_seconds is None else duration(report.eta_seconds),
    )


def _data(report: Progress) -> DataStatus | None:
    found = report.data
    if found is None:
        return None
    return DataStatus(
        tokens=found.tokens,
        documents=found.documents,
        quarantined=found.quarantined,
        examples=list(found.examples),
    )


def significant(value: float | None) -> str | None:
    """Four significant digits."""
    return None if value is None else f"{value:#.4g}"


def percent(step: int | None, total: int | None) -> str | None:
    """Share of the steps that is done; 100.0% only when all are."""
    if step is None or not total:
        return None
    return f"{min(step * 1000 // total, 1000) / 10:.1f}%"


def duration(seconds: float) -> str:
    """Seconds as 1h02m03s, 2m03s or 3s."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m{rest:02d}s"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def _checkpoint(report: Progress) -> CheckpointStatus | None:
    return CheckpointStatus(**report.checkpoint) if report.checkpoint is not None else None


def _restored_from(report: Progress) -> RestoredFrom | None:
    if report.resumed_step is None:
        return None
    passed_over = list(report.passed_over) if report.passed_over else None
    tiers = {f"{tier}_bytes": size for tier, size in (report.restored_bytes or {}).items()}
    return RestoredFrom(
        step=report.resumed_step,
        path=report.resumed_from or "",
        passed_over=passed_over,
        **tiers,
    )


def _goodput(turn: Turn, report: Progress) -> GoodputStatus | None:
    """The reports of all pods of node rank 0, and the time between them: together the active time."""
    if report.goodput is None:
        return None
    earlier = turn.status.earlier_goodput or GoodputStatus()
    active = active_s(turn.status, turn.seen.now)
    own = _without_overlap(report.goodput, sum(getattr(earlier, key) for key in GOODPUT_KEYS) - active)
    spent = {key: getattr(earlier, key) + own[key] for key in GOODPUT_KEYS}
    gap = active - sum(spent.values())
    spent["waiting" if _is_first(turn.status) else "recovery"] += max(gap, 0.0)
    total = sum(spent.values())
    ratio = f"{100 * spent['productive'] / total:.1f}%" if total > 0 else None
    return GoodputStatus(**{key: round(value) for key, value in spent.items()}, ratio=ratio)


def _without_overlap(told: Mapping[str, float], ahead_s: float) -> dict[str, float]:
    """The report without the time for which others were node rank 0 while this agent ran: they have counted it.

    To an agent that is not node rank 0 running is training, so the time is taken from there first.

    Args:
        ahead_s: by how much the seconds of the others exceed the active time; negative by what is left for this one.
    """
    own = {key: told[key] for key in GOODPUT_KEYS}
    over_s = sum(own.values()) + ahead_s
    for key in GOODPUT_KEYS:
        cut_s = min(own[key], max(over_s, 0.0))
        own[key], over_s = own[key] - cut_s, over_s - cut_s
    return own


def _is_first(status: Status) -> bool:
    return status.attempt <= 1
