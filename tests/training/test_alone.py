"""A world of one process spares FSDP2, or its copies, and not a bit of any number."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from deepseek_trainer.config import OptimizerSpec, TrainerSpec
from deepseek_trainer.distributed import alone, mesh, sharding
from deepseek_trainer.distributed.clipping import clipped
from deepseek_trainer.distributed.shards import local
from deepseek_trainer.distributed.waits import Waits
from deepseek_trainer.distributed.world import World, join
from deepseek_trainer.model import origin
from deepseek_trainer.optim import optimizer as optimizers
from deepseek_trainer.pulse import PulseWriter
from torch.distributed.fsdp import FSDPModule
from torch.nn.functional import cross_entropy

pytestmark = [pytest.mark.training]

VOCABULARY, LENGTH, STEPS, MICRO_STEPS = 64, 12, 3, 2


def trained(world: World, training: dict[str, Any], *, as_others: bool) -> tuple[Any, list[float]]:
    """The model after some steps, and the losses and norms of each.

    Args:
        as_others: as in a larger world: through FSDP2 as it is.
    """
    spec = TrainerSpec.model_validate(
        {
            "model": {"preset": "tiny", "hiddenSize": 32, "numLayers": 2, "numExperts": 4},
            "training": {"steps": STEPS, "sequenceLength": LENGTH, **training},
        }
    )
    source, waits = origin.of(spec, vocab_size=VOCABULARY), Waits(PulseWriter(None), world.device)
    model = source.bare()
    known = replace(world, size=2) if as_others else world
    sharding.shard(model, known, mesh.groups(spec.parallelism.mesh(1), world), spec.training, waits)
    source.fill(model, world.device, offloaded=spec.training.cpu_offload)
    alone.settle(model, known)
    optimizer, draws = optimizers.make(model, OptimizerSpec()), torch.Generator().manual_seed(6)
    course = []
    for _ in range(STEPS):
        for i in range(MICRO_STEPS):
            sharding.sync_on_last(model, spec.training, last=i == MICRO_STEPS - 1)
            rows = torch.randint(VOCABULARY, (2, LENGTH + 1), generator=draws)
            logits = model(input_ids=rows[:, :-1], use_cache=False).logits
            loss = cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())
            torch.autograd.backward(loss)
            course.append(loss.item())
        norm, optimizer.gradient_factor = clipped(model.parameters(), 0.5, world)
        course.append(norm)
        optimizer.step()
        optimizer.zero_grad()
    return model, course


@pytest.mark.parametrize(
    "training",
    [
        {"reduceGradients": "microBatch"},
        {"activationCheckpointing": "full"},
        {"precision": "bf16"},
        {"precision": "fp16", "reduceGradients": "microBatch"},
        {"cpuOffload": True},
    ],
    ids=lambda training: "-".join(map(str, training.values())),
)
def test_a_world_of_one_trains_bit_for_bit_as_fsdp_does(training: dict[str, Any]) -> None:
    with join("gloo", {}) as world:
        theirs, expected = trained(world, training, as_others=True)
        ours, course = trained(world, training, as_others=False)
    assert course == expected
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(local(one), local(other)), name


def test_weights_and_gradients_are_not_copied() -> None:
    with join("gloo", {}) as world:
        plain, _ = trained(world, {"activationCheckpointing": "selective"}, as_others=False)
        cast, _ = trained(world, {"precision": "bf16"}, as_others=False)
        cast(input_ids=torch.zeros(1, 4, dtype=torch.int64), use_cache=False).logits.sum().backward()
    assert not any(isinstance(module, FSDPModule) for module in plain.modules())
    for group in cast._get_fsdp_state()._fsdp_param_groups:
        for parameter in group.fsdp_params:
            assert parameter._unsharded_param.grad is None
            assert parameter.sharded_param.grad is not None
