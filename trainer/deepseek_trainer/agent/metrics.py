"""Prometheus metrics of one agent, made from its status whenever they are scraped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deepseek_trainer.contract import CheckpointInfo, Goodput, Progress
from deepseek_trainer.pulse import Pulse

GAUGES = {
    "step": "Optimizer steps done.",
    "total_steps": "Optimizer steps of the whole run.",
    "position": "Samples consumed since the start of the data.",
    "loss": "Training loss, nats per token.",
    "learning_rate": "Learning rate of the last step.",
    "grad_norm": "Norm of the last step's gradient over all ranks, before it was clipped.",
    "skipped_steps": "Steps of the job that left the weights as they were.",
    "validation_loss": "Loss on held-out data, nats per token.",
    "tokens_per_second": "Throughput of the whole job.",
    "mfu": "Share of the devices' peak that the model's own operations are.",
    "eta_seconds": "Estimated seconds to the last step.",
    "data_wait": "Share of the last steps' time in which rank 0 waited for its data.",
    "resumed_step": "Step of the checkpoint that training went on from.",
    "generation": "Generation of the membership.",
    "attempt": "Start from scratch or from a checkpoint.",
    "round": "Restarts among the agents within this generation.",
    "node_rank": "Rank of this pod.",
}
CHECKPOINT_GAUGES = {
    "step": "Step of the newest committed checkpoint.",
    "timestamp_seconds": "When it was committed, Unix time.",
    "bytes": "Its size.",
    "seconds": "Seconds from its step to its commit.",
    "blocked_seconds": "Seconds of these in which no step was made.",
}
EXPERT_GAUGES = {
    "max_violation": "Tokens of the fullest expert over the mean of its layer, less 1, in the worst layer.",
    "dropped": "Share of the assignments of tokens that were beyond the experts' capacity.",
}
LABELS = ("job", "pod")
RANK_GAUGES = {
    "step": "Optimizer steps done by a rank of this pod.",
    "step_seconds": "Wall seconds of its last step.",
    "own_work_seconds": "Seconds of it in which the rank worked and did not wait for others, where that is measured.",
    "data_wait_seconds": "Seconds of its own work in which it waited for its data.",
}
PARTS = {"forward": "forward_s", "backward": "backward_s", "optimizer": "optimizer_s", "waiting": "waited_s"}
MEMORY = {"resident": "resident_bytes", "allocated": "allocated_bytes", "reserved": "reserved_bytes"}
"""Labels of a rank's figures, and where its pulse has them."""


class ProgressCollector(Collector):
    """One sample for each field of the progress that has a value, and for each rank of the pod that makes steps."""

    def __init__(self, progress: Callable[[], Progress], pulses: Callable[[], Mapping[int, Pulse]]) -> None:
        self._progress = progress
        self._pulses = pulses

    def collect(self) -> Iterator[Metric]:
        progress = self._progress()
        labels = (progress.job, progress.pod)
        for name, text in GAUGES.items():
            family = GaugeMetricFamily(f"deepseekjob_{name}", text, labels=LABELS)
            if (value := getattr(progress, name)) is not None:
                family.add_metric(labels, float(value))
            yield family
        yield from self._checkpoint(progress, labels)
        yield from self._experts(progress, labels)
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
        yield from self._ranks(labels)

    def _checkpoint(self, progress: Progress, labels: tuple[str, str]) -> Iterator[Metric]:
        saved = progress.checkpoint
        for name, text in CHECKPOINT_GAUGES.items():
            family = GaugeMetricFamily(f"deepseekjob_checkpoint_{name}", text, labels=LABELS)
            if saved is not None and (value := _checkpoint_value(saved, name)) is not None:
                family.add_metric(labels, value)
            yield family
        family = GaugeMetricFamily("deepseekjob_checkpoint_failures", "Saves that failed since then.", labels=LABELS)
        family.add_metric(labels, progress.checkpoint_failure.failures if progress.checkpoint_failure else 0)
        yield family
        restored = GaugeMetricFamily(
            "deepseekjob_restored_bytes",
            "Bytes of the checkpoint that training went on from, by where they were read: memory, peer, volume.",
            labels=(*LABELS, "tier"),
        )
        for tier, size in progress.restored_bytes.model_dump().items() if progress.restored_bytes else ():
            restored.add_metric((*labels, tier), size)
        yield restored

    def _experts(self, progress: Progress, labels: tuple[str, str]) -> Iterator[Metric]:
        experts = progress.experts
        for name, text in EXPERT_GAUGES.items():
            family = GaugeMetricFamily(f"deepseekjob_expert_{name}", text, labels=LABELS)
            if experts is not None:
                family.add_metric(labels, getattr(experts, name))
            yield family
        family = GaugeMetricFamily(
            "deepseekjob_expert_load",
            "Tokens of an expert, as a multiple of an equal share.",
            labels=(*LABELS, "expert"),
        )
        for number, share in enumerate(experts.shares if experts is not None else ()):
            family.add_metric((*labels, str(number)), share)
        yield family

    def _ranks(self, labels: tuple[str, str]) -> Iterator[Metric]:
        pulses = self._pulses()
        for name, text in RANK_GAUGES.items():
            family = GaugeMetricFamily(f"deepseekjob_rank_{name}", text, labels=(*LABELS, "rank"))
            for rank, pulse in pulses.items():
                value = {
                    "step": pulse.step,
                    "step_seconds": pulse.step_s,
                    "own_work_seconds": pulse.busy_s,
                    "data_wait_seconds": pulse.data_s,
                }[name]
                if math.isfinite(value):
                    family.add_metric((*labels, str(rank)), value)
            yield family
        yield _labelled(
            "deepseekjob_rank_part_seconds",
            "Seconds of the last measured step of a rank, by part; waiting is for other ranks and in no other part.",
            ("part", PARTS),
            labels,
            pulses,
        )
        yield _labelled(
            "deepseekjob_rank_memory_bytes",
            "Memory of a rank: resident on the host; on its GPU the most that was allocated, and reserved for that.",
            ("kind", MEMORY),
            labels,
            pulses,
        )


def _labelled(
    name: str,
    text: str,
    figures: tuple[str, Mapping[str, str]],
    labels: tuple[str, str],
    pulses: Mapping[int, Pulse],
) -> Metric:
    """One sample for each rank and figure.

    Args:
        figures: the label that tells them apart, and for each of its values the field of a pulse.
    """
    label, fields = figures
    family = GaugeMetricFamily(name, text, labels=(*LABELS, "rank", label))
    for rank, pulse in pulses.items():
        for kind, field in fields.items():
            if math.isfinite(value := getattr(pulse, field)):
                family.add_metric((*labels, str(rank), kind), value)
    return family


def _checkpoint_value(saved: CheckpointInfo, name: str) -> float | None:
    if name != "timestamp_seconds":
        value: float | None = getattr(saved, name)
        return value
    try:
        return datetime.fromisoformat(saved.time).timestamp()
    except ValueError:  # a script may write anything
        return None


def exposition(
    progress: Callable[[], Progress], pulses: Callable[[], Mapping[int, Pulse]] = dict
) -> Callable[[], bytes]:
    """The text of /metrics, with a registry of its own."""
    registry = CollectorRegistry()
    registry.register(ProgressCollector(progress, pulses))
    return lambda: generate_latest(registry)
