"""From what the nodes said, or did not say, to the nodes that are to be avoided. Pure.

Evidence is taken in the order of its strength, and the first kind that there is decides: what a broken node does
to the others (pairs that fail, an all-reduce that never ends) must not be held against them.

    silence  ──►  crash  ──►  not finished  ──►  pairs that fail or are too slow  ──►  the all-reduce

When it is everyone, it is nobody's node: the check fails without naming one. Of two nodes with a bad pair between
them either may be the cause, so both are named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from deepseek_trainer.preflight.records import Arrival, Result, Verdict

Edge = tuple[int, int]


def judge_arrivals(nodes: Sequence[str], arrivals: Mapping[int, Arrival]) -> Verdict:
    """Whether the check may begin.

    Args:
        nodes: names of the nodes by node rank; "" where none is known.
        arrivals: by node rank; nodes that said nothing in time are missing.
    """
    silent = {rank: "did not answer" for rank in range(len(nodes)) if rank not in arrivals}
    if silent:
        return _named(nodes, silent)
    failed = {rank: arrival.error for rank, arrival in arrivals.items() if arrival.error}
    if failed:
        return _named(nodes, failed)
    most = max(arrival.devices for arrival in arrivals.values())
    fewer = {
        rank: f"has {arrival.devices} GPUs, others have {most}"
        for rank, arrival in arrivals.items()
        if arrival.devices < most
    }
    return _named(nodes, fewer) if fewer else Verdict(passed=True)


def judge_results(nodes: Sequence[str], results: Mapping[int, Result], min_mbps: int | None) -> Verdict:
    """The end of the check; for arguments see `judge_arrivals`. `min_mbps`: what each pair must reach, if anything."""
    return (
        _silence(nodes, results)
        or _ends(nodes, results, "crashed", "its check ended: {error}")
        or _ends(nodes, results, "stuck", "did not finish in time: {error}")
        or _pairs(nodes, results, min_mbps)
        or _reduce(results)
        or _passed(results)
    )


def _silence(nodes: Sequence[str], results: Mapping[int, Result]) -> Verdict | None:
    silent = {rank: "did not answer" for rank in range(len(nodes)) if rank not in results}
    silent |= {rank: "stopped answering" for rank, result in results.items() if result.end == "mute"}
    return _named(nodes, silent) if silent else None


def _ends(nodes: Sequence[str], results: Mapping[int, Result], end: str, reason: str) -> Verdict | None:
    ended = {rank: reason.format(error=result.error) for rank, result in results.items() if result.end == end}
    return _named(nodes, ended) if ended else None


def _pairs(nodes: Sequence[str], results: Mapping[int, Result], min_mbps: int | None) -> Verdict | None:
    bad = _bad_edges(results, min_mbps)
    if not bad:
        return None
    edges = _edges(results)
    if len(bad) == len(edges) > 1:
        failed = [text for edge, text in bad.items() if edges[edge] is None]
        return Verdict(passed=False, message=_all_pairs(failed, edges, min_mbps))
    named: dict[int, str] = {}
    left = dict(edges)
    while remaining := [edge for edge in bad if edge in left]:
        for rank in _worst(left, remaining):
            own = [edge for edge in remaining if rank in edge]
            met = sum(rank in edge for edge in left)
            named[rank] = f"{len(own)} of {met} pairs: {bad[own[0]]}"
        left = {edge: mbps for edge, mbps in left.items() if not named.keys() & set(edge)}
    return _named(nodes, named, may_be_all=len(nodes) == 2)


def _edges(results: Mapping[int, Result]) -> dict[Edge, float | None]:
    """The bandwidth of each pair, the lower of the two that were seen; None when either failed."""
    edges: dict[Edge, float | None] = {}
    for rank, result in sorted(results.items()):
        for pair in result.pairs:
            edge = (min(rank, pair.partner), max(rank, pair.partner))
            seen = edges.get(edge, pair.mbps)
            edges[edge] = None if seen is None or pair.mbps is None else min(seen, pair.mbps)
    return edges


def _bad_edges(results: Mapping[int, Result], min_mbps: int | None) -> dict[Edge, str]:
    """What is wrong with each pair that failed or is too slow."""
    errors = {
        (min(rank, pair.partner), max(rank, pair.partner)): pair.error
        for rank, result in sorted(results.items())
        for pair in result.pairs
        if pair.mbps is None
    }
    bad = {}
    for edge, mbps in _edges(results).items():
        between = f"between node ranks {edge[0]} and {edge[1]}"
        if mbps is None:
            bad[edge] = f"all-reduce {between} failed ({errors[edge]})"
        elif min_mbps is not None and mbps < min_mbps:
            bad[edge] = f"{mbps:.0f} Mbit/s {between}, {min_mbps} are wanted"
    return bad


def _worst(edges: Mapping[Edge, float | None], bad: Sequence[Edge]) -> list[int]:
    """The ranks with the greatest share of bad pairs, and of these the greatest number; more than one in a tie."""

    def badness(rank: int) -> tuple[float, int]:
        mine = sum(rank in edge for edge in bad)
        return mine / sum(rank in edge for edge in edges), mine

    ranked = {rank: badness(rank) for rank in sorted({rank for edge in bad for rank in edge})}
    return [rank for rank, found in ranked.items() if found == max(ranked.values())]


def _all_pairs(failed: Sequence[str], edges: Mapping[Edge, float | None], min_mbps: int | None) -> str:
    if failed:
        return (
            f"no pair of nodes passed: {failed[0]}; let the pods reach each other on all ports (NetworkPolicy), and "
            "look at the interface that communication names"
        )
    best = max(mbps for mbps in edges.values() if mbps is not None)
    return (
        f"no pair of nodes reaches {min_mbps} Mbit/s, the best has {best:.0f}: "
        "lower preflight.minBandwidthMbps, or look at the network"
    )


def _reduce(results: Mapping[int, Result]) -> Verdict | None:
    """The pairs are fine, so a failure here can't be laid to one node."""
    errors = [result.reduce_error for _, result in sorted(results.items()) if result.reduce_error]
    if not errors:
        return None
    return Verdict(passed=False, message=f"the all-reduce over all {len(results)} nodes failed: {errors[0]}")


def _passed(results: Mapping[int, Result]) -> Verdict:
    speeds = [mbps for mbps in _edges(results).values() if mbps is not None]
    reduced = [result.reduce_mbps for result in results.values() if result.reduce_mbps is not None]
    return Verdict(
        passed=True,
        min_mbps=min(speeds, default=None),
        median_mbps=median(speeds) if speeds else None,
        reduce_mbps=min(reduced, default=None),
    )


def _named(nodes: Sequence[str], reasons: Mapping[int, str], *, may_be_all: bool = False) -> Verdict:
    """The check failed because of these nodes; or of none, when it is all of them (one that is alone is named)."""
    said = "; ".join(f"{label(nodes[rank], rank)}: {reason}" for rank, reason in sorted(reasons.items()))
    if len(reasons) == len(nodes) > 1 and not may_be_all:
        return Verdict(passed=False, message=f"every node failed, so none is to be avoided: {said}")
    ranks = tuple(sorted(reasons))
    return Verdict(passed=False, ranks=ranks, nodes=tuple(nodes[rank] for rank in ranks if nodes[rank]), message=said)


def label(node: str, rank: int) -> str:
    """A node for people."""
    return f"node {node} (node rank {rank})" if node else f"node rank {rank}"
