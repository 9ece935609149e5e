"""Who is measured with whom: the rounds of a tournament, cut to a few. Pure.

A slow node is slow with all of its partners, a slow pair of good nodes is one bad pair among several; so a few
partners for each node suffice, and the length of the check doesn't grow with the gang.
"""

from __future__ import annotations

MAX_ROUNDS = 8
MIN_SLOT_S = 2.0
"""A pair needs about this long to meet and to be measured."""


def rounds(nodes: int, measured_s: float) -> int:
    """Rounds of pairs that fit into the time, with one slot kept for the all-reduce over all nodes."""
    if nodes < 2:
        return 0
    whole = nodes - 1 + nodes % 2
    return max(1, min(whole, MAX_ROUNDS, int(measured_s / MIN_SLOT_S) - 1))


def partner(nodes: int, rank: int, round_number: int) -> int | None:
    """The node that this one meets in a round (the circle method); None: it sits out, as one does when they are odd."""
    seats = nodes + nodes % 2
    turning = seats - 1
    fixed = seats - 1
    if rank == fixed:
        found = round_number * (seats // 2) % turning
    else:
        found = (round_number - rank) % turning
        found = fixed if found == rank else found
    return found if found < nodes else None
