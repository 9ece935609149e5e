"""Policy: notes that the job has a PodDisruptionBudget, before it is made.

Rule: from then on it is looked after, whatever becomes of lifecycle.maxUnavailable: one that is wanted no more is told to
allow everything.
"""

from __future__ import annotations

from deepseek_operator.decide.turn import Turn


def disruptions(turn: Turn) -> Turn:
    """Notes a lifecycle.maxUnavailable."""
    wanted = turn.seen.job.spec.lifecycle.max_unavailable is not None
    return turn.changed(disruption_budget=True) if wanted and not turn.status.disruption_budget else turn
