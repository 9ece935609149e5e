"""Prometheus metrics of one agent, made from its status whenever they are scraped."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deepseek_trainer.contract import Goodput, Progress

GAUGES = {
    "step": "Optimizer steps done.",
    "total_steps": "Optimizer steps of the whole run.",
    "position": "Samples consumed since the start of the data.",
    "loss": "Training loss, nats per token.",
    "validation_loss": "Loss on held-out data, nats per token.",
    "tokens_per_second": "Throughput of the whole job.",
    "eta_seconds": "Estimated seconds to the last step.",
    "resumed_step": "Step of the checkpoint that training went on from.",
    "generation": "Generation of the membership.",
    "attempt": "Start from scratch or from a checkpoint.",
    "round": "Restarts among the agents within this generation.",
    "node_rank": "Rank of this pod.",
}
LABELS = ("job", "pod")


class ProgressCollector(Collector):
    """One sample for each field of the progress that has a value."""

    def __init__(self, progress: Callable[[], Progress]) -> None:
        self._progress = progress

    def collect(self) -> Iterator[Metric]:
        progress = self._progress()
        labels = (progress.job, progress.pod)
        for name, text in GAUGES.items():
            family = GaugeMetricFamily(f"deepseekjob_{name}", text, labels=LABELS)
            if (value := getattr(progress, name)) is not None:
                family.add_metric(labels, float(value))
            yield family
        restarts = CounterMetricFamily(
            "deepseekjob_process_restarts", "In-place restarts of training processes in this pod.", labels=LABELS
        )
        restarts.add_metric(labels, progress.process_restarts)
        yield restarts
        seconds = CounterMetricFamily(
            "deepseekjob_goodput_seconds",
            "Seconds of this agent's life by what they went to.",
            labels=(*LABELS, "kind"),
        )
        for kind, spent in (progress.goodput or Goodput()).model_dump().items():
            seconds.add_metric((*labels, kind), spent)
        yield seconds


def exposition(progress: Callable[[], Progress]) -> Callable[[], bytes]:
    """The text of /metrics, with a registry of its own."""
    registry = CollectorRegistry()
    registry.register(ProgressCollector(progress))
    return lambda: generate_latest(registry)
