"""What becomes of a gradient, part by part, against closed forms and against torch; in one process, without shards."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from deepseek_trainer import numerics
from deepseek_trainer.config import (
    ConfigError,
    EmaSpec,
    GuardSpec,
    OptimizerSpec,
    SpectralCapSpec,
    TrainerSpec,
    TrainingSpec,
)
from deepseek_trainer.data.samples import IGNORED, MicroBatch
from deepseek_trainer.distributed.clipping import clipped
from deepseek_trainer.distributed.waits import Waits
from deepseek_trainer.distributed.world import World, join
from deepseek_trainer.errors import RollbackError, TrainerError
from deepseek_trainer.optim import loss, optimizer
from deepseek_trainer.optim.ema import Ema, decay
from deepseek_trainer.optim.guard import Guard
from deepseek_trainer.optim.muon import orthogonalized
from deepseek_trainer.optim.spectral import SpectralCap
from deepseek_trainer.optim.update import Update
from deepseek_trainer.pulse import PulseWriter
from torch import nn
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3ForCausalLM

pytestmark = pytest.mark.training

CPU = torch.device("cpu")
INF, NAN = math.inf, math.nan


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with join("gloo", {}) as world:
        yield world


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Stack(nn.Module):
    """A token's vector, a hidden matrix, three experts, a norm, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden, self.norm = nn.Embedding(7, 6), nn.Linear(6, 10, bias=False), nn.LayerNorm(10)
        self.experts = nn.Parameter(torch.randn(3, 10, 4))
        self.head = nn.Linear(4, 7, bias=False)

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mixed = torch.einsum("bi,eij->bj", self.norm(self.hidden(self.embed(tokens))), self.experts)
        return self.head(mixed).float()


def _trainer(optimizer: dict[str, Any], **training: Any) -> TrainerSpec:
    return TrainerSpec.model_validate(
        {"training": {"steps": 100, **training}, "optimizer": {"warmupSteps": 0, "learningRate": 0.01, **optimizer}}
    )


def _update(model: nn.Module, world: World, optimizer: dict[str, Any], **training: Any) -> Update:
    return Update(model, _trainer(optimizer, **training), world, Waits(PulseWriter.from_environment({}), CPU))


def _backward(model: nn.Module, scale: float = 1.0) -> None:
    tokens = torch.arange(7)
    (nn.functional.cross_entropy(model(tokens), tokens.roll(1)) * scale).backward()


def _weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


# Muon


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (3, 6, 6), (0, 4, 4)])
def test_orthogonalized_has_the_same_singular_vectors_and_values_near_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape) * 3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    values = left.mT @ orthogonalized(matrices) @ right.mT
    diagonal = values.diagonal(dim1=-2, dim2=-1)
    assert ((diagonal > 0.6) & (diagonal < 1.3)).all()
    assert torch.allclose(values, torch.diag_embed(diagonal), atol=1e-4)


def test_muon_is_torch_s_for_a_matrix_and_adamw_s_for_the_rest() -> None:
    spec = OptimizerSpec(kind="Muon", learning_rate=0.01)
    mine, theirs = Stack(), Stack()
    theirs.load_state_dict(mine.state_dict())
    muon = optimizer.make(mine, spec)
    matrix = torch.optim.Muon(
        [theirs.hidden.weight], lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    told: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.95)}
    decayed = torch.optim.AdamW([theirs.embed.weight, theirs.head.weight], **told, weight_decay=0.1)
    plain = torch.optim.AdamW(theirs.norm.parameters(), **told, weight_decay=0.0)
    with torch.no_grad():
        alone = [nn.Parameter(expert.clone()) for expert in theirs.experts]
    experts = torch.optim.Muon(alone, lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for parameter, same in zip(mine.parameters(), theirs.parameters(), strict=True):
            parameter.grad = torch.randn_like(parameter)
            same.grad = parameter.grad.clone()
        assert theirs.experts.grad is not None
        for expert, gradient in zip(alone, theirs.experts.grad, strict=True):
            expert.grad = gradient.clone()
        for step in (muon, matrix, decayed, plain, experts):
            step.step()
    with torch.no_grad():
        theirs.experts.copy_(torch.stack([expert.detach() for expert in alone]))
    for (name, parameter), same in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        # torch's iterations are in bf16
        atol = 2e-3 if name in ("hidden.weight", "experts") else 1e-6
        assert torch.allclose(parameter, same, atol=atol), name
        assert not torch.allclose(parameter, torch.zeros_like(parameter), atol=atol)


def test_muon_takes_the_hidden_matrices_of_the_model() -> None:
    with torch.device("meta"):
        model = DeepseekV3ForCausalLM(DeepseekV3Config(vocab_size=64, num_hidden_layers=4, n_routed_experts=8))
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = optimizer.make(model, OptimizerSpec(kind="Muon")).param_groups
    (taken,) = [{names[p] for p in group["params"]} for group in groups if group["muon"]]
    others = set(names.values()) - taken
    assert {name for name in others if "norm" not in name} == {"model.embed_tokens.weight", "lm_head.weight"}
    assert {name.rpartition(".")[2] for name in taken} == {"weight", "gate_up_proj", "down_proj"}


# The average of weights


def test_the_average_has_its_closed_form_and_is_what_is_evaluated(world: World) -> None:
    model = Stack()
    update = _update(model, world, {"ema": {"decay": 0.8}})
    history, spec = [_weights(model)], EmaSpec(decay=0.8)
    for step in range(12):
        update.begin(step)
        _backward(model)
        update.clip()
        update.apply(step)
        history.append(_weights(model))

    decays = [decay(spec, step) for step in range(12)]
    assert decays[:3] == pytest.approx([1 / 10, 2 / 11, 3 / 12])
    assert max(decays) < 0.8 == decay(spec, 100)
    kept = math.prod(decays)
    wanted = kept * history[0]
    for step in range(12):
        wanted = wanted + (1 - decays[step]) * math.prod(decays[step + 1 :]) * history[step + 1]
    average = torch.cat([tensor.flatten() for tensor in update.state["ema"].values()])
    assert torch.allclose(average, wanted, atol=1e-6)
    assert not torch.allclose(average, history[-1], atol=1e-3)

    with update.evaluated_weights():
        assert torch.equal(_weights(model), average)
    assert torch.equal(_weights(model), history[-1])
    assert torch.equal(torch.cat([tensor.flatten() for tensor in update.state["ema"].values()]), average)


def test_an_average_that_a_checkpoint_lacks_begins_with_its_weights() -> None:
    model = Stack()
    average = Ema(model, EmaSpec())
    with torch.no_grad():
        model.hidden.weight.mul_(2)
    average.begin()
    assert torch.equal(average.state["hidden.weight"], model.hidden.weight)


# The spectral cap


def test_the_spectral_cap_is_kept_and_small_matrices_are_left() -> None:
    model = Stack()
    before = model.head.weight.detach().clone()
    cap = SpectralCap(model, SpectralCapSpec(weights=("hidden.weight", "exp*", "head.weight"), limit=2.0))
    with torch.no_grad():
        model.hidden.weight.mul_(50)
        model.experts.mul_(torch.tensor([0.1, 1.0, 9.0]).reshape(3, 1, 1))
        before[:] = model.head.weight
    small = model.experts[0].detach().clone()
    for _ in range(30):
        cap.apply()
    values = torch.linalg.svdvals(model.experts.detach())[:, 0]
    assert float(torch.linalg.svdvals(model.hidden.weight.detach())[0]) == pytest.approx(2.0, rel=1e-3)
    assert values[1:].tolist() == pytest.approx([2.0, 2.0], rel=1e-3)
    assert torch.equal(model.experts[0], small)
    assert torch.equal(model.head.weight, before)


def test_a_cap_on_nothing_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"spectralCap.weights: \*o_proj\* fits no matrix; .* experts"):
        SpectralCap(Stack(), SpectralCapSpec(weights=("hidden.weight", "*o_proj*"), limit=1.0))


# Clipping, z-loss


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_clipping_has_its_closed_form_whatever_the_scale(world: World, scale: float) -> None:
    model = Stack()
    _backward(model, scale)
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]) / scale
    norm = float(gradient.norm())
    for limit in (norm * 2, norm / 4):
        found = clipped(model.parameters(), limit, world, scale=scale)
        assert found.norm == pytest.approx(norm, rel=1e-6)
        assert found.factor * scale == pytest.approx(min(1.0, limit / norm), rel=1e-5)


def test_the_norm_of_a_large_gradient_is_right_to_rounding(world: World) -> None:
    large, small = nn.Parameter(torch.zeros(2048, 2048)), nn.Parameter(torch.zeros(3))
    large.grad, small.grad = torch.randn(2048, 2048).mT, torch.ones(3)  # a transposed one is as good
    expected = torch.cat([large.grad.flatten(), small.grad]).double().norm().item()
    assert clipped([large, small], 1.0, world).norm == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["AdamW", "Muon"])
def test_a_step_multiplies_its_gradient_by_the_factor(kind: str) -> None:
    ways = []
    for factor in (1.0, 1 / 512):
        torch.manual_seed(0)
        model = Stack()
        taken = optimizer.make(model, OptimizerSpec.model_validate({"kind": kind}))
        for number in range(3):
            _backward(model, 1.0 + number)
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad.div_(factor)
            taken.gradient_factor = factor
            taken.step()
            taken.zero_grad()
        ways.append(_weights(model))
    assert torch.allclose(ways[0], ways[1], rtol=1e-6)
    assert not torch.allclose(ways[0], _weights(Stack()))


@pytest.mark.parametrize("value", [INF, NAN])
def test_a_gradient_that_is_no_number_is_left_as_it_is(world: World, value: float) -> None:
    model = Stack()
    _backward(model)
    assert model.head.weight.grad is not None
    model.head.weight.grad[0, 0] = value
    assert clipped(model.parameters(), 0.1, world, scale=8.0).factor == 1.0


def test_the_z_loss_is_minimized_and_not_reported() -> None:
    logits = torch.randn(2, 5, 11, requires_grad=True)
    labels = torch.randint(0, 11, (2, 5))
    labels[0, :3] = IGNORED
    batch = MicroBatch(torch.zeros(2, 5, dtype=torch.int64), labels, None)

    class Model:
        def __call__(self, **_: Any) -> Any:
            return type("Out", (), {"logits": logits.clone()})

    told = loss.summed_objective(Model(), batch, z_loss=0.01)

    wanted, z = torch.zeros(()), torch.zeros(())
    for row, column in (labels != IGNORED).nonzero().tolist():
        denominator = logits[row, column].exp().sum().log()
        wanted = wanted + denominator - logits[row, column, labels[row, column]]
        z = z + denominator**2
    assert torch.allclose(told.loss, wanted)
    assert torch.allclose(told.minimized, told.loss + 0.01 * z)
    assert torch.equal(loss.summed_objective(Model(), batch, z_loss=0.0).minimized, told.loss)


# fp16


def test_an_overflow_changes_nothing_but_the_scale_which_recovers(world: World) -> None:
    model = Stack()
    update = _update(model, world, {"ema": {}}, precision="fp16", lossScale={"initial": 1024, "growthSteps": 3})
    before, scales = _weights(model), []
    for step in range(6):
        _backward(model, update.scale)
        if step in (0, 1):
            assert model.head.weight.grad is not None
            model.head.weight.grad[0, 0] = (INF, NAN)[step]
        norm = update.clip()
        if update.overflowed(2.0, norm) is not None:
            update.leave()
            assert torch.equal(_weights(model), before)
            assert not any(part["step"] for part in update.optimizer.state.values())
        else:
            update.apply(step)
        scales.append(update.scale)
    assert scales == [512, 256, 256, 256, 512, 512]
    assert not torch.equal(_weights(model), before)

    alike = Stack()
    alike.load_state_dict(_shaped(alike, before))
    plain = _update(alike, world, {"ema": {}})
    for step in range(4):
        _backward(alike)
        plain.clip()
        plain.apply(step)
    assert torch.allclose(_weights(alike), _weights(model), atol=1e-5), (
        "unscaled before clipping: as if there were no scale"
    )


def _shaped(model: nn.Module, flat: torch.Tensor) -> dict[str, torch.Tensor]:
    parts = flat.split([parameter.numel() for parameter in model.parameters()])
    return {name: part.reshape(p.shape) for (name, p), part in zip(model.named_parameters(), parts, strict=True)}


def test_a_loss_that_is_no_number_is_not_the_scale_s_doing(world: World) -> None:
    update = _update(Stack(), world, {}, precision="fp16", lossScale={"initial": 4})
    assert update.overflowed(NAN, NAN) is None
    assert [update.overflowed(2.0, INF) for _ in range(3)] == [
        "fp16 could not hold the gradient with a loss scale of 4",
        "fp16 could not hold the gradient with a loss scale of 2",
        None,
    ]
    assert update.scale == 1.0


# Guards


def _calm(guard: Guard, steps: int) -> None:
    for step in range(1, steps + 1):
        assert guard.refuses(step, 3.0 + 0.01 * (step % 3), 1.0) is None


@pytest.mark.parametrize(
    ("loss_", "norm", "says"),
    [(NAN, 1.0, "the loss is nan"), (INF, 1.0, "the loss is inf"), (3.0, NAN, "the norm of the gradient is nan")],
)
def test_what_is_no_number_fails_is_skipped_or_rolls_back(loss_: float, norm: float, says: str) -> None:
    with pytest.raises(TrainerError, match=f"{says} in step 5; lower trainer.optimizer.learningRate"):
        Guard(GuardSpec()).refuses(5, loss_, norm)
    assert Guard(GuardSpec(on_non_finite="SkipStep")).refuses(5, loss_, norm) == says
    with pytest.raises(RollbackError, match=f"{says} in step 5: back to") as raised:
        Guard(GuardSpec(on_non_finite="Rollback", rollback_steps=3)).refuses(5, loss_, norm)
    assert list(raised.value.steps) == [3, 4, 5]


def test_a_spike_is_judged_by_the_last_losses_once_there_are_enough() -> None:
    guard = Guard(GuardSpec(on_spike="SkipStep", window_steps=8))
    _calm(guard, 7)
    assert guard.refuses(8, 9.0, 1.0) is None, "there are too few losses yet"
    _calm(guard, 8)
    assert guard.refuses(9, 3.2, 1.0) == "the loss is 3.2, after 3.01125 +- 0.0078 in the steps before"
    assert guard.refuses(10, 1.0, 1.0) is None, "a low loss is none"
    assert guard.skipped == 1
    assert Guard(GuardSpec(window_steps=8)).refuses(1, 99.0, 1.0) is None


def test_only_so_many_steps_in_a_row_are_skipped() -> None:
    guard = Guard(GuardSpec(on_non_finite="SkipStep", max_skipped_steps=2))
    for first in (1, 4):
        assert [guard.refuses(first, NAN, 1.0), guard.refuses(first + 1, NAN, 1.0)] == ["the loss is nan"] * 2
        assert guard.refuses(first + 2, 3.0, 1.0) is None
    again = Guard(GuardSpec(on_non_finite="SkipStep", max_skipped_steps=2))
    for name, tensor in guard.state.items():
        again.state[name].copy_(tensor)
    assert again.skipped == 4, "as a checkpoint has it"
    again.refuses(7, NAN, 1.0)
    again.refuses(8, NAN, 1.0)
    with pytest.raises(
        TrainerError, match=r"in step 9, and so it was in 2 steps before it \(trainer.training.guard.max"
    ):
        again.refuses(9, NAN, 1.0)


def test_steps_that_a_rollback_named_are_left_out_whatever_they_are() -> None:
    guard = Guard(GuardSpec(on_non_finite="Rollback"), left_out=[4, 5])
    assert [guard.refuses(step, NAN if step == 4 else 3.0, 1.0) for step in (3, 4, 5, 6)] == [
        None,
        "it is left out since a rollback",
        "it is left out since a rollback",
        None,
    ]
    assert guard.skipped == 2


# The machine


def test_fp8_is_refused_where_the_hardware_has_none() -> None:
    with pytest.raises(
        ConfigError, match=r"training\.precision: fp8 needs tensor cores, and a CPU has none; take bf16"
    ):
        numerics.set_up(TrainingSpec(steps=1, precision="fp8"), CPU)
    with pytest.raises(ConfigError, match=r"compute capability 8\.9 .*, this one has 8\.0; take bf16"):
        numerics.require_fp8((8, 0))  # an A100
    numerics.require_fp8((9, 0))


def test_fp8_is_near_bf16_and_changes_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(sys.prefix) / "fp8"))  # by tools/install.sh
    pytest.importorskip("torchao", reason="torchao is not installed")
    plain = nn.Sequential(nn.Linear(64, 32, bias=False), nn.Tanh(), nn.Linear(32, 48, bias=False), nn.Linear(48, 7))
    plain = plain.bfloat16()
    converted = copy.deepcopy(plain)
    numerics.convert(converted, TrainingSpec(steps=1, precision="fp8"), emulate=True)
    assert [type(module).__name__ for module in converted] == ["Float8Linear", "Tanh", "Float8Linear", "Linear"]
    assert [name for name, _ in converted.named_parameters()] == [name for name, _ in plain.named_parameters()]
    rows = torch.randn(16, 64).bfloat16()
    for model in (plain, converted):
        model(rows).float().square().mean().backward()
    wanted, found = (
        torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).float()
        for model in (plain, converted)
    )
    assert 0 < float((found - wanted).norm() / wanted.norm()) < 0.15


def test_deterministic_algorithms_are_switched_on_and_off() -> None:
    numerics.set_up(TrainingSpec(steps=1, deterministic=True), CPU)
    assert torch.are_deterministic_algorithms_enabled()
    numerics.set_up(TrainingSpec(steps=1), CPU)
    assert not torch.are_deterministic_algorithms_enabled()
