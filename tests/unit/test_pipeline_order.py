"""The orders of a pipeline: every rank does its part once, and what is sent is received in the same order."""

from __future__ import annotations

from collections import defaultdict

import pytest
from deepseek_trainer.config.parallelism import Mesh
from deepseek_trainer.distributed import order
from deepseek_trainer.distributed.order import Act

MESHES = {
    "GPipe": Mesh(pipeline=3, schedule="GPipe", stages=3),
    "1F1B": Mesh(pipeline=3, schedule="1F1B", stages=3),
    "Interleaved1F1B": Mesh(pipeline=2, schedule="Interleaved1F1B", stages=6),
}


@pytest.mark.parametrize("batches", [1, 2, 5, 8])
@pytest.mark.parametrize("name", MESHES)
def test_an_order_can_be_carried_out(name: str, batches: int) -> None:
    mesh = MESHES[name]
    filled = order.suitable(mesh, batches)
    assert batches <= filled < batches + mesh.pipeline
    kept = play(mesh, order.training(mesh, filled), {"F", "B"}, filled)
    if name == "1F1B":
        assert kept == [min(filled, 3), min(filled, 2), 1], "the first keeps as many as there are ranks"
    if name == "GPipe":
        assert kept == [filled] * 3
    play(mesh, order.forward(mesh, batches), {"F"}, batches)


def play(mesh: Mesh, orders: tuple[tuple[Act, ...], ...], passes: set[str], batches: int) -> list[int]:
    """Carries it out: nobody waits for ever, and what arrives between two ranks is what is expected next. How many
    micro-batches each rank keeps at most."""
    done: set[Act] = set()
    wires: dict[tuple[int, int], list[tuple[str, int, int]]] = defaultdict(list)
    places, kept, most = [0] * mesh.pipeline, [0] * mesh.pipeline, [0] * mesh.pipeline
    while any(place < len(acts) for place, acts in zip(places, orders, strict=True)):
        moved = False
        for rank, acts in enumerate(orders):
            while places[rank] < len(acts):
                act = acts[places[rank]]
                kind, _, way = act.what.partition("_")
                other = act.stage + (1 if (kind == "SEND") == (way == "F") else -1)
                if kind == "SEND":
                    wires[rank, other % mesh.pipeline].append((way, other, act.batch))
                elif kind == "RECV":  # posted at once; what it is about must be the next on the wire
                    wire = wires[other % mesh.pipeline, rank]
                    if not wire:
                        break
                    assert wire.pop(0) == (way, act.stage, act.batch)
                else:
                    assert act not in done
                    kept[rank] += 1 if act.what == "F" else -1
                    most[rank] = max(most[rank], kept[rank])
                done.add(act)
                places[rank] += 1
                moved = True
        assert moved, "they wait for each other"
    wanted = {Act(what, stage, i) for what in passes for stage in range(mesh.stages) for i in range(batches)}
    assert {act for act in done if act.what in ("F", "B")} == wanted
    assert not any(wires.values())
    return most


@pytest.mark.parametrize(
    ("stages", "layers", "sizes"), [(2, 4, [2, 2]), (2, 5, [3, 2]), (4, 6, [1, 2, 2, 1]), (4, 61, [15, 16, 15, 15])]
)
def test_the_middle_has_what_is_left_over(stages: int, layers: int, sizes: list[int]) -> None:
    mesh = Mesh(pipeline=stages, stages=stages)
    runs = [mesh.layers_of(stage, layers) for stage in range(stages)]
    assert [len(run) for run in runs] == sizes
    assert [i for run in runs for i in run] == list(range(layers))
