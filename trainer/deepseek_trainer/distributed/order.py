"""In which order the ranks of a pipeline compute, and send what they have made.

    GPipe                    all micro-batches forward, then all backward
    1F1B                     as many forward as there are ranks behind, then one backward and one forward (Narayanan et al. 2019)
    Interleaved1F1B          the same with several stages on a rank, for shorter waits (Narayanan et al. 2021)
    InterleavedZeroBubble    the same, and gradients of weights while a rank would wait (Qi et al. 2023, arXiv:2401.10241: ZB1P)
    ZBVZeroBubble            likewise, with two stages on a rank, down the ranks and up again (section 6)
    DualPipeV                likewise, in the order of DeepSeek's DualPipe (arXiv:2412.19437), which has one of each way in turns

The orders of those with several stages are torch's. Where two stages on end are of one rank, nothing is sent.

Rule: two ranks see the messages between them in the same order, so that neither waits for what the other will send later.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

from deepseek_trainer.config.mesh import INTERLEAVED, Mesh


class Act(NamedTuple):
    """One thing to do.

    Attributes:
        what: F (forward), B (backward), I (backward, of the inputs), W (backward, of the weights), or SEND_F, RECV_F, SEND_B,
            RECV_B.
        stage: that computes, sends or receives.
        batch: number of the micro-batch.
    """

    what: str
    stage: int
    batch: int


@cache
def training(mesh: Mesh, batches: int) -> tuple[tuple[Act, ...], ...]:
    """For each rank of the pipeline what it does in a step of so many micro-batches, of which `suitable` is true."""
    ranks = range(mesh.pipeline)
    if mesh.schedule not in ("GPipe", "1F1B"):
        return _with_messages(_of_torch(mesh, batches), mesh)
    ahead = [batches if mesh.schedule == "GPipe" else min(batches, mesh.pipeline - rank) for rank in ranks]
    return _with_messages([_one_stage(rank, batches, ahead[rank]) for rank in ranks], mesh)


@cache
def forward(mesh: Mesh, batches: int) -> tuple[tuple[Act, ...], ...]:
    """The same of a forward pass alone."""
    ranks = map(mesh.stages_of, range(mesh.pipeline))
    return _with_messages([[Act("F", stage, i) for stage in stages for i in range(batches)] for stages in ranks], mesh)


def suitable(mesh: Mesh, batches: int) -> int:
    """How many micro-batches a step has to have, if it has so many: the schedule may know no order of fewer."""
    if mesh.schedule == "DualPipeV":
        return max(batches, mesh.stages)
    if mesh.schedule in INTERLEAVED:
        while batches % max(1, batches // mesh.pipeline):
            batches += 1
    return batches


def _one_stage(stage: int, batches: int, ahead: int) -> list[Act]:
    """So many forward, and then in turns backward and forward."""
    acts = [Act("F", stage, i) for i in range(ahead)]
    for i in range(batches):
        acts.append(Act("B", stage, i))
        if ahead + i < batches:
            acts.append(Act("F", stage, ahead + i))
    return acts


def _of_torch(mesh: Mesh, batches: int) -> list[list[Act]]:
    """Of torch's schedule, which is asked for the order alone."""
    from torch.distributed.pipelining import schedules

    rank = SimpleNamespace(num_stages=mesh.stages, group_size=mesh.pipeline, group_rank=0, submod=None)
    stages: list[Any] = [rank] * (mesh.stages // mesh.pipeline)
    orders = getattr(schedules, f"Schedule{mesh.schedule}")(stages, batches).pipeline_order
    return [
        [_act(one) for act in orders[rank] if act is not None for one in act.sub_actions or [act]] for rank in orders
    ]


def _with_messages(orders: list[list[Act]], mesh: Mesh) -> tuple[tuple[Act, ...], ...]:
    from torch.distributed.pipelining.schedules import _Action, _add_send_recv, _ComputationType

    known = {
        rank: [_Action(stage, _ComputationType(what), i) for what, stage, i in acts] for rank, acts in enumerate(orders)
    }
    whole = _add_send_recv(known, mesh.place_of, mesh.stages)
    return tuple(tuple(map(_act, whole[rank])) for rank in range(mesh.pipeline))


def _act(action: Any) -> Act:
    return Act(action.computation_type.value, action.stage_index, action.microbatch_index)
