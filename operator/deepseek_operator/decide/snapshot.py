"""Policy: what the profile said when the job started is kept in the status, beside the first generation.

Rule: it is written with the generation, before any pod. From then on the job runs with these words, and a stop in
between two writes can't mix two versions of a profile.
"""

from __future__ import annotations

from deepseek_operator.decide.turn import Turn


def snapshot(turn: Turn) -> Turn:
    """Keeps the profile of a job that has begun."""
    if turn.status.generation == 0 or turn.seen.profile is None or turn.status.profile is not None:
        return turn
    return turn.changed(profile=turn.seen.profile)
