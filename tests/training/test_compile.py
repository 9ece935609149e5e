"""`training.compile: layers`: the numbers of eager, one graph for all layers, whatever wraps them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from deepseek_trainer.config import ConfigError, TrainerSpec
from deepseek_trainer.distributed import alone, mesh, sharding
from deepseek_trainer.distributed.shards import local
from deepseek_trainer.distributed.waits import Waits
from deepseek_trainer.distributed.world import World, join
from deepseek_trainer.model import compiled, origin
from deepseek_trainer.pulse import PulseWriter
from torch._dynamo.utils import counters
from torch.nn.functional import cross_entropy

pytestmark = [pytest.mark.training, pytest.mark.timeout(300)]

VOCABULARY, LENGTH, LAYERS = 32, 8, 3


def spec_of(architecture: str, **training: Any) -> TrainerSpec:
    return TrainerSpec.model_validate(
        {
            "model": {"architecture": architecture, "hiddenSize": 32, "numLayers": LAYERS},
            "training": {"steps": 1, "sequenceLength": LENGTH, **training},
        }
    )


def sharded(world: World, spec: TrainerSpec) -> Any:
    source = origin.of(spec, vocab_size=VOCABULARY)
    model = source.bare()
    waits = Waits(PulseWriter(None), world.device)
    sharding.shard(model, world, mesh.groups(spec.parallelism.mesh(1), world), spec.training, waits)
    source.fill(model, world.device)
    alone.settle(model, world)
    return model


def gradients(model: Any) -> tuple[float, dict[str, torch.Tensor]]:
    rows = torch.randint(VOCABULARY, (2, LENGTH + 1), generator=torch.Generator().manual_seed(2))
    logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    loss = cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
    torch.autograd.backward(loss)
    return loss.item(), {name: local(parameter.grad) for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    ("architecture", "recomputed", "graphs"),
    [
        ("Llama", "selective", 1),
        ("DeepSeekV3", "full", 4),
    ],  # a dense layer; attention, norm and shared experts of the others
)
def test_compiled_layers_compute_what_eager_ones_do(
    architecture: str, recomputed: str, graphs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")  # the same graphs, without a C++ compiler's minute
    torch._dynamo.reset()
    counters.clear()
    with join("gloo", {}) as world:
        expected, theirs = gradients(sharded(world, spec_of(architecture, activationCheckpointing=recomputed)))
        spec = spec_of(architecture, activationCheckpointing=recomputed, compile="layers")
        loss, ours = gradients(sharded(world, spec))
    assert loss == pytest.approx(expected, abs=1e-6)
    assert ours.keys() == theirs.keys(), "names are those of a checkpoint"
    for name, gradient in ours.items():
        assert torch.allclose(gradient, theirs[name], atol=1e-6), name
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == graphs, counters["stats"]


def test_what_cannot_be_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    experts = spec_of("DeepSeekV3", compile="layers", activationCheckpointing="selective")
    with (
        join("gloo", {}) as world,
        pytest.raises(ConfigError, match=r"training\.compile: .*activationCheckpointing to full"),
    ):
        sharded(world, experts)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"training\.compile: .* has no no-such-compiler; .* take none"):
        compiled.require(experts.training)
    compiled.require(spec_of("Llama").training)
