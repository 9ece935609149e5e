"""One entry of a run's series, and what can write it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Record:
    """What was measured at a step.

    Attributes:
        time_s: Unix time.
        values: finite numbers by name, in groups: train/loss, time/forward_seconds.
        texts: by name likewise.
    """

    step: int
    time_s: float
    values: Mapping[str, float]
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where a run's records go.

    Attributes:
        job: its name; `uid` is Kubernetes' of it, empty without a cluster.
        config: the run config, to be kept beside the series.
    """

    directory: Path
    job: str
    uid: str
    project: str
    tracking_uri: str | None
    offline: bool
    config: dict[str, Any]


class Sink(Protocol):
    """One kind of log, opened. Each method may raise whatever its library does; it is closed then, and opened again later."""

    def write(self, records: Sequence[Record]) -> None:
        """Records by step, ascending."""

    def close(self) -> None:
        """All is written."""


Open = Callable[[Place, int | None], Sink]
"""Opens a kind of log to go on after this step; None: the series begins."""
