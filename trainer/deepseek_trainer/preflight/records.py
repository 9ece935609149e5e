"""What the agents tell each other in a preflight, through the generation's store."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Plan(_Record):
    """The check that a round begins with; part of node rank 0's Start, so that all agents hold the same one."""

    timeout_s: float
    min_mbps: int | None = None
    """Megabits a second that each pair of nodes must reach; None: any speed will do."""
    host_rank: int = 0
    """Node rank of the store's host, and its node: for agents that can't ask the store any more."""
    host_node: str = ""
    witnesses: tuple[tuple[int, str, int], ...] = ()
    """Node rank, address and HTTP port of a few agents, the host's not among them."""


class Arrival(_Record):
    """A node's check processes have started, or could not."""

    devices: int = 0
    """GPUs that take part; 0 with gloo."""
    error: str = ""


class Pair(_Record):
    """All-reduces between this node and one other."""

    partner: int
    """Node rank."""
    mbps: float | None = None
    """Megabits a second in each direction; None: it failed."""
    error: str = ""


class Result(_Record):
    """How a node came through the check."""

    end: Literal["done", "crashed", "mute", "stuck"]
    """done: to the last stage, whatever failed on the way. crashed: a process ended before. At the end of the time:
    mute: a process gave no sign of life any more; stuck: all were alive, and had not finished."""
    error: str = ""
    pairs: tuple[Pair, ...] = ()
    reduce_mbps: float | None = None
    """Of the all-reduce over all nodes."""
    reduce_error: str = ""


class Verdict(_Record):
    """What the gang comes to; one for each phase of a check, and everyone obeys it."""

    passed: bool
    ranks: tuple[int, ...] = ()
    """Node ranks of the nodes that failed the check."""
    nodes: tuple[str, ...] = ()
    """Kubernetes' names of these nodes, as far as they are known."""
    message: str = ""
    min_mbps: float | None = None
    median_mbps: float | None = None
    """Of all pairs."""
    reduce_mbps: float | None = None
