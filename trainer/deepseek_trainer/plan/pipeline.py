"""What the schedule of a pipeline costs: activations that a rank keeps at once, and time in which it waits.

The first backward passes come after so many forward ones that all ranks have something to do. Formulas; with passes that take
one time each, and messages that take none, they are what the orders themselves say (tests/unit/test_pipeline_order.py).
"""

from __future__ import annotations

from deepseek_trainer.config.mesh import Mesh


def kept(mesh: Mesh, place: int, micro_steps: int) -> float:
    """Of how many micro-batches a rank keeps the activations of its layers at once, in a step of so many."""
    ranks, stages = mesh.pipeline, mesh.stages // mesh.pipeline
    if ranks == 1:
        return 1
    if mesh.schedule == "GPipe":
        most: float = micro_steps
    elif mesh.splits_backward:
        most = ranks + 0.5 * (mesh.schedule == "DualPipeV")
    elif stages == 1:
        most = ranks - place
    else:
        most = ((stages - 1) * ranks + 2 * (ranks - 1 - place) + 1) / stages
    return min(most, micro_steps)


def idle(mesh: Mesh, micro_steps: int) -> float:
    """The share of the time in which the ranks wait for the pipeline to fill and to run empty."""
    turns = micro_steps * mesh.stages / mesh.pipeline
    waits = (mesh.pipeline - 1) / (3 if mesh.splits_backward else 1)  # two thirds of it are filled
    return waits / (turns + waits)
