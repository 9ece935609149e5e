"""When the phases of a check end, as shares of its timeout; every agent keeps to them by its own clock."""

from __future__ import annotations

ARRIVED, MEASURED, JUDGED = 0.5, 0.8, 0.85
STAND_IN, ALONE = 0.05, 0.1
"""How much later any agent judges in place of node rank 0, and how much later one does that has lost the store."""
CONFIRMED = 0.1
"""How long a verdict waits to be confirmed."""


def measured_at_least_s(timeout_s: float) -> float:
    """Seconds that are left for measuring when the arrivals were judged as late as can be."""
    return (MEASURED - ARRIVED - ALONE) * timeout_s
