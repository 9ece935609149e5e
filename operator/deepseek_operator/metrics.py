"""Prometheus metrics of the operator. The registry is passed in; labels have few values and no job's name."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

PREFIX = "deepseekjob_operator"
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """One attribute a metric."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.queue_depth = Gauge(f"{PREFIX}_queue_depth", "Jobs that wait for a worker.", registry=registry)
        self.reconcile_seconds = Histogram(
            f"{PREFIX}_reconcile_seconds",
            "Duration of a pass over one job, by result: done, retry, conflict, gone, error.",
            ["result"],
            buckets=BUCKETS_S,
            registry=registry,
        )
        self.api_requests = Counter(
            f"{PREFIX}_api_requests_total",
            "Requests to the API server by verb and status code (0: no answer).",
            ["verb", "code"],
            registry=registry,
        )
        self.api_request_seconds = Histogram(
            f"{PREFIX}_api_request_seconds",
            "Duration of requests to the API server.",
            ["verb"],
            buckets=BUCKETS_S,
            registry=registry,
        )
        self.watch_events = Counter(
            f"{PREFIX}_watch_events_total", "Events from the watch streams.", ["kind"], registry=registry
        )
        self.bad_reports = Counter(
            f"{PREFIX}_bad_progress_reports_total",
            "Progress reports that could not be read or were refused.",
            registry=registry,
        )
        self.leader = Gauge(f"{PREFIX}_leader", "1 where this replica leads, 0 where it waits.", registry=registry)
        self.jobs = Gauge(f"{PREFIX}_jobs", "DeepSeekJobs by state.", ["state"], registry=registry)
        self.straggling = Gauge(
            f"{PREFIX}_straggling_jobs", "DeepSeekJobs with a rank that is slower than the others.", registry=registry
        )
        self.checkpoint_failed = Gauge(
            f"{PREFIX}_checkpoint_failed_jobs", "DeepSeekJobs whose last checkpoint was not saved.", registry=registry
        )
        self.checkpoint_age = Gauge(
            f"{PREFIX}_oldest_checkpoint_age_seconds",
            "Age of the last checkpoint, or the time since the start, of the job that trains longest without a new one.",
            registry=registry,
        )
        self.last_resync = Gauge(
            f"{PREFIX}_last_resync_timestamp_seconds", "When all jobs were last listed.", registry=registry
        )
        self.loop_lag = Gauge(
            f"{PREFIX}_event_loop_lag_seconds", "How late the event loop was, when last measured.", registry=registry
        )

    def on_response(self, verb: str, status: int, seconds: float) -> None:
        """Counts one request to the API server."""
        self.api_requests.labels(verb, str(status)).inc()
        self.api_request_seconds.labels(verb).observe(seconds)

    def count_jobs(
        self, states: Iterable[str], straggling: int, *, checkpoint_failed: int = 0, checkpoint_age_s: float = 0.0
    ) -> None:
        """Sets the gauges of jobs.

        Args:
            states: of all jobs.
            straggling: how many of them have a slow rank.
            checkpoint_failed: how many of them could not save the last time.
            checkpoint_age_s: see `checkpoint_age`; 0 where no job trains with checkpoints.
        """
        self.jobs.clear()
        for state in states:
            self.jobs.labels(state).inc()
        self.straggling.set(straggling)
        self.checkpoint_failed.set(checkpoint_failed)
        self.checkpoint_age.set(checkpoint_age_s)
