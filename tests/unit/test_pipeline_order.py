"""The orders of a pipeline: every rank does its part once, and what is sent is received in the same order."""

from __future__ import annotations

from collections import defaultdict

import pytest
from deepseek_trainer.config.mesh import Mesh
from deepseek_trainer.distributed import order
from deepseek_trainer.distributed.order import Act
from deepseek_trainer.plan import pipeline

MESHES = {
    "GPipe": Mesh(pipeline=3, schedule="GPipe", stages=3),
    "1F1B": Mesh(pipeline=3, schedule="1F1B", stages=3),
    "Interleaved1F1B": Mesh(pipeline=2, schedule="Interleaved1F1B", stages=6),
    "InterleavedZeroBubble": Mesh(pipeline=2, schedule="InterleavedZeroBubble", stages=6),
    "ZBVZeroBubble": Mesh(pipeline=3, schedule="ZBVZeroBubble", stages=6),
    "DualPipeV": Mesh(pipeline=3, schedule="DualPipeV", stages=6),
}
COSTS = {"F": 1, "I": 1, "W": 1, "B": 2}


@pytest.mark.parametrize("batches", [1, 2, 5, 8])
@pytest.mark.parametrize("name", MESHES)
def test_an_order_can_be_carried_out(name: str, batches: int) -> None:
    mesh = MESHES[name]
    filled = order.suitable(mesh, batches)
    assert batches <= filled < max(batches + mesh.pipeline, mesh.stages + 1)
    play(mesh, order.training(mesh, filled), filled)
    play(mesh, order.forward(mesh, batches), batches, backward=False)


@pytest.mark.parametrize("name", MESHES)
def test_what_a_schedule_keeps_and_waits_is_as_estimated(name: str) -> None:
    mesh, batches = MESHES[name], 12
    each = mesh.stages // mesh.pipeline
    kept, waited = play(mesh, order.training(mesh, batches), batches)
    assert [most / each for most in kept] == [pipeline.kept(mesh, place, batches) for place in range(mesh.pipeline)]
    assert waited == pytest.approx(pipeline.idle(mesh, batches))


def play(
    mesh: Mesh, orders: tuple[tuple[Act, ...], ...], batches: int, *, backward: bool = True
) -> tuple[list[int], float]:
    """Carries it out: nobody waits for ever, and what arrives between two ranks is what is expected next. How many
    micro-batches each rank keeps at most, and the share of the time that the first one waits, if messages take none."""
    ended: dict[Act, int] = {}
    wires: dict[tuple[int, int], list[tuple[str, int, int]]] = defaultdict(list)
    places, kept, most, clocks = ([0] * mesh.pipeline for _ in range(4))
    while any(place < len(acts) for place, acts in zip(places, orders, strict=True)):
        moved = False
        for rank, acts in enumerate(orders):
            while places[rank] < len(acts):
                act = acts[places[rank]]
                kind, _, way = act.what.partition("_")
                other = act.stage + (1 if (kind == "SEND") == (way == "F") else -1)
                if kind == "SEND":
                    wires[rank, mesh.place_of(other)].append((way, other, act.batch))
                elif kind == "RECV":  # posted at once; what it is about must be the next on the wire
                    wire = wires[mesh.place_of(other), rank]
                    if not wire:
                        break
                    assert wire.pop(0) == (way, act.stage, act.batch)
                else:
                    assert act not in ended
                    assert mesh.place_of(act.stage) == rank
                    needed = [ended[one] for one in needs(mesh, act) if one in ended]
                    assert needed or (act.what == "F" and act.stage == 0), f"{act} comes too early"
                    clocks[rank] = ended[act] = max(clocks[rank], *needed, 0) + COSTS[act.what]
                    kept[rank] += {"F": 1, "I": 0}.get(act.what, -1)
                    most[rank] = max(most[rank], kept[rank])
                places[rank] += 1
                moved = True
        assert moved, "they wait for each other"
    each = [(stage, i) for stage in range(mesh.stages) for i in range(batches)]
    assert sorted((stage, i) for what, stage, i in ended if what == "F") == each
    assert sorted((stage, i) for what, stage, i in ended if what in ("B", "W")) == each * backward
    assert not any(wires.values())
    return most, 1 - sum(COSTS[act.what] for act in orders[0] if act.what in COSTS) / max(clocks)


def needs(mesh: Mesh, act: Act) -> list[Act]:
    """What has to have been computed: of a list all that are in the order."""
    if act.what == "F":
        return [act._replace(stage=act.stage - 1)]
    if act.what == "W":
        return [act._replace(what="I")]
    behind = [Act(what, act.stage + 1, act.batch) for what in ("B", "I")]
    return behind if act.stage < mesh.stages - 1 else [act._replace(what="F")]


@pytest.mark.parametrize(
    ("stages", "layers", "sizes"), [(2, 4, [2, 2]), (2, 5, [3, 2]), (4, 6, [1, 2, 2, 1]), (4, 61, [15, 16, 15, 15])]
)
def test_the_middle_has_what_is_left_over(stages: int, layers: int, sizes: list[int]) -> None:
    mesh = Mesh(pipeline=stages, stages=stages)
    runs = [mesh.layers_of(stage, layers) for stage in range(stages)]
    assert [len(run) for run in runs] == sizes
    assert [i for run in runs for i in run] == list(range(layers))
