"""The next generation of the gang: whose pods are new, who hosts its store, and how large it is.

    status: generation+1, attempt+1, incarnation+1 of each replaced or removed slot, its master
    then    pods: new ones are created with their membership, the others are told theirs

Rule: all of it is one change of the status. Why it came, and what it is charged to, is said by whoever asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from deepseek_operator.api.v1alpha1 import GoodputStatus, Master, Nodes, Status
from deepseek_operator.decide.gang import Member, incarnation_of, members, rank_zero, to_be_created
from deepseek_operator.decide.turn import Turn
from deepseek_operator.render import pod_dns


def next_generation(turn: Turn, lost: Iterable[int], nodes: int, *, planned: bool = False) -> Turn:
    """The generation after the present one. The caller states Restarting, charges it and announces it.

    Args:
        lost: slots whose pods don't take part any more, those of them that stay get new ones.
        nodes: workers that it shall have; slots from there on are removed, those up to there are added.
        planned: everybody is there to save before the move.
    """
    status, gang, gone = turn.status, members(turn.seen, turn.status), set(lost)
    removed = set(range(nodes, len(gang)))
    not_yet_created = {member.slot for member in gang if member.pod is None and to_be_created(status, member.slot)}
    new = (gone | not_yet_created | set(range(len(gang), nodes))) - removed
    incarnations = {str(slot): incarnation_of(status, slot) + 1 for slot in sorted(gone | removed)}
    survivors = [member for member in gang if member.slot not in gone | removed]
    return replace(turn, report=None).changed(
        generation=status.generation + 1,
        attempt=status.attempt + 1,
        incarnations=status.incarnations | incarnations,
        replaced=sorted(new),
        planned=planned,
        nodes=Nodes(ready=0, desired=nodes),
        master=_master(turn, survivors, status.incarnations | incarnations),
        restored_from=None,
        stepped_at=None,
        unheard_since=None,
        earlier_goodput=_earlier_goodput(
            status, rank_zero_replaced=rank_zero(turn.seen, status).slot in gone | removed
        ),
        ranks=_ranks(status, new, nodes),
    )


def _master(turn: Turn, survivors: list[Member], incarnations: dict[str, int]) -> Master:
    """A survivor that runs, by its address; without one, slot 0 by its DNS name."""
    running = [m for m in survivors if m.pod and m.pod.phase == "Running" and m.pod.ip]
    running.sort(key=lambda member: (not (member.pod and member.pod.ready), member.slot))
    if running and running[0].pod and running[0].pod.ip:
        return Master(slot=running[0].slot, address=running[0].pod.ip)
    return Master(slot=0, address=pod_dns(turn.seen.job.metadata, 0, incarnations.get("0", 0)))


def _ranks(status: Status, new: set[int], nodes: int) -> list[int]:
    """A replacement keeps the node rank of its slot; a wholly new gang is ordered anew (`topology`)."""
    return [slot for slot in status.ranks if slot < nodes] if len(new) < nodes else []


def _earlier_goodput(status: Status, *, rank_zero_replaced: bool) -> GoodputStatus | None:
    """A new pod of node rank 0 counts its seconds from nothing: what its predecessors did is kept apart."""
    return status.goodput if rank_zero_replaced else status.earlier_goodput
