"""The next generation of the gang: who is in it, in which order, whose pods are new, and who hosts its store.

    status: generation+1, attempt+1, incarnation+1 of each replaced or removed slot, its members, its master
    then    pods: new ones are created with their membership, the others are told theirs

Rules
- All of it is one change of the status. Why it came, and what it is charged to, is said by whoever asks for it.
- Survivors keep their order of node ranks, and whoever joins comes after them. A gang without survivors is a new one: it
  has the size that is wanted and the first slots.
- Who is left out, but is still wanted, becomes a candidate, and keeps its pod if it has one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from deepseek_operator.api.v1alpha1 import DeepSeekJob, GoodputStatus, Master, Nodes, Status
from deepseek_operator.decide.exclusion import excluded_nodes
from deepseek_operator.decide.gang import (
    Member,
    candidate_slots,
    candidates,
    incarnation_of,
    is_fit,
    is_present,
    members,
    occupants,
    rank_zero,
    slots,
    spares,
    to_be_created,
    wanted_size,
)
from deepseek_operator.decide.turn import Turn
from deepseek_operator.render import pod_dns


def succession(turn: Turn, lost: Collection[int] = ()) -> tuple[int, ...]:
    """The members of the next generation, in the order of node ranks: the present ones and all who are ready to join.

    Who is ready takes the place of a lost one, whose successor waits in its turn: to join an elastic job, or as a spare.
    Under growPolicy OnRestart, without spares, it could not join, and is waited for. Where fewer are wanted the lost ones
    are left out first, then those that are not ready, then the highest slots.

    Args:
        lost: slots whose pods don't take part any more.
    """
    gang, wanted = members(turn.seen, turn.status), wanted_size(turn.seen, turn.status)
    if not any(_survives(turn.status, member, lost) for member in gang):
        return tuple(range(wanted))
    joining = ready_candidates(turn)
    by_worth = sorted(gang, key=lambda m: (m.slot in lost, not is_present(m), m.slot))
    replaced = len(joining) if _takes_places(turn.seen.job) else 0
    staying = max(len(gang) - len(lost), len(gang) - replaced)
    kept = {member.slot for member in by_worth[: min(staying, wanted)]}
    order = [slot for slot in slots(turn.seen.job, turn.status) if slot in kept]
    return (*order, *(member.slot for member in joining[: wanted - len(order)]))


def _takes_places(job: DeepSeekJob) -> bool:
    """Whether who is ready takes the place of a lost one, instead of waiting for its successor."""
    elastic = job.spec.elastic
    return spares(job) > 0 or (elastic is not None and elastic.grow_policy == "WhenReady")


def ready_candidates(turn: Turn) -> list[Member]:
    """Who may join the gang at once."""
    avoided = excluded_nodes(turn.status)
    waiting = candidates(turn.seen, turn.status)
    return [member for member in waiting if member.pod and member.pod.ready and is_fit(member.pod, avoided)]


def next_generation(turn: Turn, order: Sequence[int], lost: Iterable[int] = (), *, planned: bool = False) -> Turn:
    """The generation after the present one. The caller states Restarting, charges it and announces it.

    Args:
        order: its members, in the order of node ranks.
        lost: slots whose pods don't take part any more; those of them that stay get new ones.
        planned: everybody is there to save before the move, those that are replaced too.
    """
    status, moves = turn.status, _moves(turn, order, set(lost))
    incarnations = status.incarnations | {str(slot): incarnation_of(status, slot) + 1 for slot in sorted(moves.raised)}
    return replace(turn, report=None).changed(
        generation=status.generation + 1,
        attempt=status.attempt + 1,
        incarnations=incarnations,
        replaced=sorted(moves.new),
        standby=[slot for slot in status.standby if slot not in moves.raised and slot not in order],
        planned=planned,
        assembling_since=turn.now,
        assembled_at=None,
        nodes=Nodes(ready=0, desired=len(order)),
        master=_master(turn, moves.kept, min(order), incarnations),
        restored_from=None,
        stepped_at=None,
        unheard_since=None,
        earlier_goodput=_earlier_goodput(
            status, rank_zero_replaced=rank_zero(turn.seen, status).slot not in {m.slot for m in moves.kept}
        ),
        ranks=_ranks(turn, order, moves.kept),
    )


@dataclass(frozen=True, slots=True)
class _Moves:
    """What becomes of the slots."""

    kept: list[Member]
    """Members of the next generation whose pods stay."""
    raised: set[int]
    """Slots whose pods take part no more."""
    new: set[int]
    """Members of the next generation whose pods are yet to be created."""


def _moves(turn: Turn, order: Sequence[int], lost: set[int]) -> _Moves:
    status, avoided = turn.status, excluded_nodes(turn.status)
    before = {member.slot: member for member in members(turn.seen, status)}
    joining = {member.slot: member for member in occupants(turn.seen, status, set(order) - before.keys())}
    spent = {
        slot
        for slot, member in joining.items()
        if (slot in status.standby if member.pod is None else not is_fit(member.pod, avoided))
    }
    after = status.model_copy(update={"ranks": list(order)})
    removed = before.keys() - set(order) - set(candidate_slots(turn.seen, after))
    raised = lost | removed | spent
    taking_part = {slot: member for slot, member in (before | joining).items() if slot in order}
    kept = [member for slot, member in taking_part.items() if slot not in raised and member.pod is not None]
    return _Moves(kept, raised, set(order) - {member.slot for member in kept})


def _survives(status: Status, member: Member, lost: Collection[int]) -> bool:
    return member.slot not in lost and not (member.pod is None and to_be_created(status, member.slot))


def _master(turn: Turn, kept: list[Member], first: int, incarnations: dict[str, int]) -> Master:
    """One whose pod stays and runs, by its address; without one, the first slot by its DNS name."""
    running = [m for m in kept if m.pod and m.pod.phase == "Running" and m.pod.ip]
    running.sort(key=lambda member: (not (member.pod and member.pod.ready), member.slot))
    if running and running[0].pod and running[0].pod.ip:
        return Master(slot=running[0].slot, address=running[0].pod.ip)
    return Master(slot=first, address=pod_dns(turn.seen.job.metadata, first, incarnations.get(str(first), 0)))


def _ranks(turn: Turn, order: Sequence[int], kept: list[Member]) -> list[int]:
    """The order, where it says more than the number does. A wholly new gang may be ordered by its places (`topology`)."""
    natural = list(order) == list(range(len(order)))
    survivors = set(slots(turn.seen.job, turn.status)) & {member.slot for member in kept}
    ordered = turn.seen.job.spec.scheduling.topology is not None and bool(turn.status.ranks) and bool(survivors)
    return list(order) if ordered or not natural else []


def _earlier_goodput(status: Status, *, rank_zero_replaced: bool) -> GoodputStatus | None:
    """A new pod of node rank 0 counts its seconds from nothing: what its predecessors did is kept apart."""
    return status.goodput if rank_zero_replaced else status.earlier_goodput
