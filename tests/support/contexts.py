"""One rank of four that divide sequences: ring attention against attention written out, and what is minimised against one process.

Every rank computes the reference itself. Rank 0 prints a line of JSON a case: what it was, and the greatest difference.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
from deepseek_trainer.config import TrainerSpec
from deepseek_trainer.config.parallelism import ParallelismSpec
from deepseek_trainer.data.samples import IGNORED, MicroBatch, nothing
from deepseek_trainer.distributed import mesh, ring, sharding
from deepseek_trainer.distributed.context import WHOLE, Context
from deepseek_trainer.distributed.pipeline import Pipeline
from deepseek_trainer.distributed.waits import Waits
from deepseek_trainer.distributed.world import World, join
from deepseek_trainer.model import origin
from deepseek_trainer.model.balance import Routing
from deepseek_trainer.optim import loss
from deepseek_trainer.optim.loss import summed_loss, summed_objective
from deepseek_trainer.pulse import PulseWriter
from torch.distributed.tensor import DTensor

Case = dict[str, Any]
ATTENTIONS: list[Case] = [
    {"ranks": 4, "heads": 4, "shared": 4, "size": 6, "value_size": 6},
    {"ranks": 4, "heads": 4, "shared": 2, "size": 6, "value_size": 6, "documents": True},
    {"ranks": 3, "heads": 2, "shared": 2, "size": 6, "value_size": 4, "documents": True, "scores": 40},
    {"ranks": 2, "heads": 6, "shared": 2, "size": 4, "value_size": 8, "scores": 40},
]
MESHES: list[Case] = [{"context": 4}, {"context": 2, "tensor": 2}, {"pipeline": 2, "context": 2}]
SPEC = {
    "model": {
        "preset": "tiny",
        "hiddenSize": 32,
        "numLayers": 2,
        "numExperts": 4,
        "multiToken": {"depth": 1},
        "experts": {"sequenceLoss": 0.1, "capacityFactor": 1.2},
    },
    "training": {"steps": 1, "sequenceLength": 24, "zLoss": 0.01, "activationCheckpointing": "full"},
}
ROWS, WIDTH, VOCABULARY = 2, 21, 64


def starts(rows: int, width: int) -> torch.Tensor:
    """Where each token's document begins: one at 0, one at 5, one that ends just after; other places in the next row."""
    first = torch.arange(width)
    return torch.stack([torch.where(first < 5 + row, 0, torch.where(first < 14, 5 + row, 14)) for row in range(rows)])


def attention(case: Case, group: Any, waits: Waits) -> float:
    """How much ring attention differs, in its outputs and gradients."""
    width, draw = 4 * case["ranks"], torch.Generator().manual_seed(1)
    sizes = [(case["heads"], case["size"]), (case["shared"], case["size"]), (case["shared"], case["value_size"])]
    wholes = [torch.randn(ROWS, heads, width, size, generator=draw, requires_grad=True) for heads, size in sizes]
    gradient = torch.randn(ROWS, case["heads"], width, case["value_size"], generator=draw)
    begins = starts(ROWS, width) if case.get("documents") else None

    query, key, value = wholes
    key, value = (tensor.repeat_interleave(case["heads"] // case["shared"], dim=1) for tensor in (key, value))
    scores = query @ key.mT * case["size"] ** -0.5
    scores = scores.masked_fill(torch.ones(width, width).triu(1).bool(), -torch.inf)
    if begins is not None:
        scores = scores.masked_fill((begins[:, :, None] != begins[:, None])[:, None], -torch.inf)
    wanted = scores.softmax(-1) @ value
    wanted.backward(gradient)

    here = ring.Ring(group, waits)

    def own(tensor: torch.Tensor) -> torch.Tensor:
        return ring.part(tensor.detach().transpose(1, 2), here.rank, here.size).transpose(1, 2)

    vars(ring)["SCORES"] = case.get("scores", 2**24)
    parts = [own(tensor).requires_grad_() for tensor in wholes]
    out = ring.attention(here, parts[0], parts[1], parts[2], begins)
    out.backward(own(gradient))  # type: ignore[no-untyped-call]
    pairs = [
        (out, own(wanted)),
        *((part.grad, own(cast(Any, whole.grad))) for part, whole in zip(parts, wholes, strict=True)),
    ]
    return max(float((cast(Any, ours) - theirs).abs().max()) for ours, theirs in pairs)


def batch() -> MicroBatch:
    """Two rows of documents, of a width that nothing divides; the end of the second is padding."""
    tokens = torch.randint(1, VOCABULARY, (ROWS, WIDTH + 1), generator=torch.Generator().manual_seed(2))
    inputs, labels = tokens[:, :-1].clone(), tokens[:, 1:].clone()
    positions = torch.arange(WIDTH) - starts(ROWS, WIDTH)
    labels[:, :-1][positions[:, 1:] == 0] = IGNORED
    inputs[1, 17:], labels[1, 16:], positions[1, 17:] = 0, IGNORED, 0
    return MicroBatch(inputs, labels, positions)


def objective(model: Any, context: Context, averaged: int) -> tuple[torch.Tensor, dict[str, torch.Tensor], Any]:
    """Loss and validation loss of this rank's part; gradients, with the logits at a place of each row; how experts were used."""
    spec = TrainerSpec.model_validate(SPEC)
    routing = Routing(model, model.config, spec.model.experts, torch.device("cpu"), context)
    given, chosen = batch(), {"z_loss": spec.training.z_loss, "routing": routing, "further_weight": 0.3}
    summed, minimized = summed_objective(model.train(), given, **cast(Any, chosen), context=context)
    (minimized * averaged / 100).backward()  # type: ignore[no-untyped-call]
    grads = {name: _whole(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    with torch.no_grad():
        held_out = summed_loss(model.eval(), MicroBatch(given.inputs, given.labels, None), context=context)
        own = context.own(context.begin(given))
        logits = model(input_ids=own.inputs, position_ids=own.positions, use_cache=False).logits
        grads["logits"] = context.at(logits, torch.tensor([4, WIDTH - 1]))
    return torch.stack([summed.detach(), held_out]), grads, routing.balance()


def staged(
    model: Any, pipeline: Pipeline, config: Any, world: World
) -> tuple[torch.Tensor, dict[str, torch.Tensor], Any]:
    """The same of a pipeline; without logits."""
    spec, context = TrainerSpec.model_validate(SPEC), pipeline.context
    routing = Routing(model, config, spec.model.experts, torch.device("cpu"), context)
    minimized = partial(loss.objective, z_loss=spec.training.z_loss, further_weight=0.3, context=context)
    given, weight = batch(), world.averaged / 100
    rows = [given, nothing(8)]  # what the second has told the layers must not stay for the backward pass of the first
    summed = pipeline.gradient(rows, minimized, weight=weight, routing=routing, tick=lambda: None)
    grads = {name: _whole(p.grad) for name, p in model.named_parameters()}
    model.eval()
    held_out = pipeline.loss([MicroBatch(given.inputs, given.labels, None)], minimized, tick=lambda: None)
    every = {name: tensor for stage in world.gather(grads) for name, tensor in stage.items()}
    return torch.stack([summed, held_out]), every, routing.balance()


def _whole(tensor: Any) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def divided(sizes: Case, world: World, waits: Waits, one: tuple[Any, Any, Any]) -> float:
    """How much losses and gradients under a mesh differ from one process' ones; infinite where experts were used otherwise."""
    shape = ParallelismSpec.model_validate(sizes).mesh(world.size)
    source = origin.of(TrainerSpec.model_validate(SPEC), vocab_size=VOCABULARY)
    model: Any = source.bare()
    placed, training = world.laid_out(shape), TrainerSpec.model_validate(SPEC).training
    groups = mesh.groups(shape, placed)
    pipeline = Pipeline(model, groups, placed, training, waits) if groups.pipeline is not None else None
    context = sharding.shard(model, placed, groups, training, waits)
    source.fill(model, world.device)
    if pipeline is not None:
        pipeline.filled(context)
        losses, grads, load = staged(model.train(), pipeline, source.config, placed)
        grads["logits"] = one[1]["logits"]
    else:
        losses, grads, load = objective(model, context, placed.averaged)
    total = torch.tensor(world.total(*(float(loss) if placed.adds else 0.0 for loss in losses)))
    assert grads.keys() == one[1].keys()
    if load != one[2] or not load.dropped:
        return torch.inf
    return max(
        float((total / one[0] - 1).abs().max()),
        *(float((tensor - one[1][name]).abs().max()) for name, tensor in grads.items()),
    )


def cases(world: World) -> Iterator[tuple[Case, float]]:
    waits = Waits(PulseWriter.from_environment({}), world.device)
    for case in ATTENTIONS:
        groups = [dist.new_group(ranks) for ranks in ([*range(case["ranks"])], [2, 3]) if len(ranks) == case["ranks"]]
        mine = [group for group in groups if group is not None and group != dist.GroupMember.NON_GROUP_MEMBER]
        yield case, attention(case, mine[0], waits) if mine else 0.0
    one = objective(origin.of(TrainerSpec.model_validate(SPEC), vocab_size=VOCABULARY).model(), WHOLE, 1)
    for sizes in MESHES:
        yield sizes, divided(sizes, world, waits, one)


def main() -> None:
    logging.getLogger("torch.distributed.tensor").setLevel(logging.ERROR)  # of how a whole tensor is put together
    with join("gloo", os.environ) as world:
        for case, difference in cases(world):
            told = world.gather(difference)
            if world.leader:
                print(json.dumps({**case, "difference": max(told)}), flush=True)


if __name__ == "__main__":
    main()
