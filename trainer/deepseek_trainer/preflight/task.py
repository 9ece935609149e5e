"""What the agent and its check processes tell each other; importable without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

BEAT_S = 0.5
ENVIRONMENT: Mapping[str, str] = {
    # A wait in NCCL raises at its timeout, and the process lives on to meet the next partner.
    "TORCH_NCCL_BLOCKING_WAIT": "1",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
}
"""Variables that every check process has."""


class Task(BaseModel):
    """One check process' part."""

    model_config = ConfigDict(frozen=True)

    node_rank: int
    nodes: int
    local_rank: int
    procs: int
    """Check processes of each node."""
    gpus: bool
    """One GPU for each process, and NCCL; else the CPU, and gloo."""
    measured_s: float
    """Seconds that the plan has at least for measuring; the number of rounds follows from it, the same everywhere."""
    master: str
    port: int
    key: str
    """Prefix of this check's groups in the store."""


class Event(BaseModel):
    """What a check process says. `failed` is its last word when it can't go on."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["beat", "ready", "pair", "reduce", "failed"]
    partner: int | None = None
    mbps: float | None = None
    error: str = ""
