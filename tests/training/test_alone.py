"""A world of one process spares FSDP2's copies, and not a bit of any number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from deepseek_trainer.config import OptimizerSpec, TrainerSpec
from deepseek_trainer.distributed import alone, mesh, sharding
from deepseek_trainer.distributed.clipping import clip
from deepseek_trainer.distributed.waits import Waits
from deepseek_trainer.distributed.world import World, join
from deepseek_trainer.model import origin
from deepseek_trainer.optim import optimizer as optimizers
from deepseek_trainer.pulse import PulseWriter
from torch.nn.functional import cross_entropy

pytestmark = [pytest.mark.training]

VOCABULARY, LENGTH, STEPS, MICRO_STEPS = 64, 12, 3, 2


def trained(world: World, training: dict[str, Any], *, settled: bool) -> tuple[Any, list[float]]:
    """The model after some steps, and the losses and norms of each."""
    spec = TrainerSpec.model_validate(
        {
            "model": {"preset": "tiny", "hiddenSize": 32, "numLayers": 2, "numExperts": 4},
            "training": {"steps": STEPS, "sequenceLength": LENGTH, **training},
        }
    )
    source, waits = origin.of(spec, vocab_size=VOCABULARY), Waits(PulseWriter(None), world.device)
    model = source.bare()
    sharding.shard(model, world, mesh.groups(spec.parallelism.mesh(1), world), spec.training, waits)
    source.fill(model, world.device, offloaded=spec.training.cpu_offload)
    if settled:
        alone.settle(model, world)
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
        course.append(clip(model.parameters(), 0.5, world))
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
        theirs, expected = trained(world, training, settled=False)
        ours, course = trained(world, training, settled=True)
    assert course == expected
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one.to_local(), other.to_local()), name


def test_weights_and_gradients_are_not_copied() -> None:
    with join("gloo", {}) as world:
        model, _ = trained(world, {}, settled=True)
        shards = {id(shard): shard.to_local().data_ptr() for shard in model.parameters()}
        model(input_ids=torch.zeros(1, 4, dtype=torch.int64), use_cache=False).logits.sum().backward()
        for group in model._get_fsdp_state()._fsdp_param_groups:
            for parameter in group.fsdp_params:
                assert parameter._unsharded_param.data_ptr() == shards[id(parameter.sharded_param)]
                assert parameter._unsharded_param.grad is None
                assert parameter.sharded_param.grad is not None
