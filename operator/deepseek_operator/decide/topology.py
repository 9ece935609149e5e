"""Policy: node ranks follow the topology, so that neighbours in rank are neighbours in the network.

    pods created without a membership -> all bound to nodes -> ranks written -> generation announced by patches

Rules
- The order is made once for a gang that is wholly new (the first, or one that replaces every pod): by the value of the
  topology's label, then the node, then the slot. Whoever replaces a pod later keeps its slot's rank.
- An elastic gang that goes on without some of its members before it is ordered (`assembly`) is ordered then.
- A node that has no such label, or can't be read, comes last; that is told once, and nothing waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable

from deepseek_operator.api.names import Reason
from deepseek_operator.decide.gang import Member, is_ranked, members, occupants
from deepseek_operator.decide.turn import Turn, ended
from deepseek_operator.decide.types import Event, Observation

NAMED_MAX = 5
"""Nodes without a label that the Event names."""


def topology(turn: Turn) -> Turn:
    """Orders the node ranks of a new gang as soon as it is known where all of its pods are."""
    key = turn.seen.job.spec.scheduling.topology
    waiting = turn.status.generation > 0 and not is_ranked(turn.seen.job, turn.status)
    if turn.over or turn.next_generation or key is None or not waiting:
        return turn
    gang = members(turn.seen, turn.status)
    places = _places(gang)
    values = turn.seen.nodes
    if places is None or not set(places.values()) <= values.keys():
        return turn
    order = sorted(places, key=lambda slot: _position(values[places[slot]], places[slot], slot))
    unknown = sorted({node for node in places.values() if values[node] is None})
    turn = turn.changed(ranks=order)
    return turn.announcing(_unknown(unknown, key.key)) if unknown else turn


def nodes_to_read(seen: Observation) -> tuple[str, ...]:
    """The nodes whose labels `topology` needs: all that a new gang is on, once every pod has its node, or may go on
    without those that have none."""
    status, elastic = seen.job.status, seen.job.spec.elastic
    if ended(status) or status.generation == 0 or is_ranked(seen.job, status):
        return ()
    gang = members(seen, status)
    if elastic is not None and elastic.shrink_after_seconds is not None:
        gang = tuple(member for member in gang if member.pod is not None and member.pod.node)
    return tuple(sorted(set((_places(gang) or {}).values())))


def by_place(turn: Turn, slots: Iterable[int]) -> list[int]:
    """The slots in the order of their places, as far as these are known."""
    nodes = {m.slot: (m.pod.node if m.pod else None) or "" for m in occupants(turn.seen, turn.status, slots)}
    return sorted(nodes, key=lambda slot: _position(turn.seen.nodes.get(nodes[slot]), nodes[slot], slot))


def _places(gang: tuple[Member, ...]) -> dict[int, str] | None:
    """Slot -> node; None as long as a pod is on no node."""
    places = {member.slot: member.pod.node for member in gang if member.pod is not None and member.pod.node}
    return places if len(places) == len(gang) else None


def _position(value: str | None, node: str, slot: int) -> tuple[bool, str, str, int]:
    return (value is None, value or "", node, slot)


def _unknown(nodes: list[str], key: str) -> Event:
    named = ", ".join(nodes[:NAMED_MAX]) + (f" and {len(nodes) - NAMED_MAX} more" if len(nodes) > NAMED_MAX else "")
    message = (
        f"label {key} can't be read from {'node' if len(nodes) == 1 else 'nodes'} {named}: workers there get the last "
        "node ranks; label the nodes, and let the operator read them (chart value rbac.readNodes)"
    )
    return Event("Warning", Reason.TOPOLOGY_UNKNOWN, message)
