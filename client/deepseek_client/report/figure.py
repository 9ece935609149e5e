"""report.png: the loss over steps and over the wall clock, with the interruption and the resume point marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from deepseek_client.local.history import History
from deepseek_client.local.steplog import Step
from deepseek_client.report.summary import Summary

_LOSS, _VALIDATION, _ENTROPY, _LOST = "#2166ac", "#b2182b", "#666666", "#e08214"
_RESUMED = "#1b7837"


def draw(history: History, summary: Summary, path: Path) -> None:
    """Writes the figure as a PNG of 1600 x 1000 pixels.

    Raises:
        OSError: the file can't be written.
    """
    figure = Figure(figsize=(12.8, 8.0), dpi=125, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_title(summary), fontsize=13)
    over_steps, over_time = figure.subplots(2, 1)
    _loss(over_steps, [history.curve()], history, "step")
    _mark_steps(over_steps, summary)
    over_steps.set_xlabel("optimizer step")
    _loss(over_time, history.lines(), history, "time_s")
    _mark_time(over_time, summary)
    over_time.set_xlabel("wall clock since the start, seconds")
    for axes in (over_steps, over_time):
        if summary.unigram_entropy is not None:
            label = f"unigram entropy {summary.unigram_entropy:.2f}"
            axes.axhline(summary.unigram_entropy, color=_ENTROPY, linestyle="--", linewidth=1.2, label=label)
        axes.set_ylabel("loss, nats per token")
        axes.grid(visible=True, alpha=0.25)
        axes.margins(x=0.02)
        axes.set_xlim(left=0)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5, frameon=False)
    figure.savefig(path)


def _title(summary: Summary) -> str:
    parts = [f"{summary.job}: {summary.state}", f"{summary.workers} workers"]
    if summary.steps is not None:
        parts.append(f"{summary.steps} steps")
    if summary.goodput_ratio is not None:
        parts.append(f"goodput {summary.goodput_ratio:.0%}")
    return "  ·  ".join(parts)


def _loss(axes: Any, lines: list[list[Step]], history: History, x: str) -> None:
    """The training loss, one line for each start so that none bridges an interruption; validation as dots."""
    for index, line in enumerate(lines):
        label = "training loss" if index == 0 else None
        axes.plot([getattr(s, x) for s in line], [s.loss for s in line], color=_LOSS, linewidth=1.4, label=label)
    evaluated = history.evaluations()
    if evaluated:
        axes.plot(
            [getattr(s, x) for s in evaluated],
            [s.validation_loss for s in evaluated],
            color=_VALIDATION,
            marker="o",
            markersize=6,
            linewidth=1.0,
            linestyle=":",
            label="validation loss",
        )


def _mark_steps(axes: Any, summary: Summary) -> None:
    for item in summary.interruptions:
        axes.axvline(item.step, color=_LOST, linewidth=1.6, label=f"worker killed at step {item.step}")
        if item.resumed_step is not None:
            label = f"resumed from the checkpoint of step {item.resumed_step}"
            axes.axvline(item.resumed_step, color=_RESUMED, linewidth=1.6, linestyle="-.", label=label)
            axes.axvspan(item.resumed_step, item.step, color=_LOST, alpha=0.12, linewidth=0)


def _mark_time(axes: Any, summary: Summary) -> None:
    for item in summary.interruptions:
        axes.axvline(item.time_s, color=_LOST, linewidth=1.6, label=f"worker killed at {item.time_s:.0f} s")
        if item.recovery_s is not None:
            back = item.time_s + item.recovery_s
            label = f"first step of the next generation, {item.recovery_s:.1f} s later"
            axes.axvline(back, color=_RESUMED, linewidth=1.6, linestyle="-.", label=label)
            axes.axvspan(item.time_s, back, color=_LOST, alpha=0.12, linewidth=0)
