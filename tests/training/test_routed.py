"""Rows on their way to experts and back: the outputs and gradients of transformers' own experts, without its index."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from deepseek_trainer.kernels import routes
from deepseek_trainer.model import routed
from deepseek_trainer.model.layers import decoder_layers, router
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    DeepseekV2Config,
    DeepseekV3Config,
    GptOssConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen3MoeConfig,
)

pytestmark = [pytest.mark.training, pytest.mark.timeout(300)]

ROWS, K, EXPERTS, SIZE = 7, 3, 5, 4
NARROW: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "num_experts_per_tok": 3,
    "pad_token_id": None,
}
LATENT: dict[str, Any] = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4}
GROUPS: dict[str, Any] = {
    "n_routed_experts": 8,
    "first_k_dense_replace": 0,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
}
KNOWN: dict[str, PreTrainedConfig] = {
    "DeepSeek-V3": DeepseekV3Config(**NARROW, **LATENT, **GROUPS),
    "DeepSeek-V2": DeepseekV2Config(**NARROW, **LATENT, **GROUPS),
    "Qwen3-MoE": Qwen3MoeConfig(**NARROW, num_experts=8, head_dim=8),
}


def order(*, every: bool) -> torch.Tensor:
    """Of the routes of ROWS rows, by expert; not every: of those to the first experts alone."""
    route_to = torch.randint(EXPERTS, (ROWS * K,), generator=torch.Generator().manual_seed(1))
    by_expert = torch.argsort(route_to, stable=True)
    return by_expert if every else by_expert[route_to[by_expert] < 2]


@pytest.mark.parametrize("every", [True, False])
def test_a_row_s_gradient_is_the_sum_over_its_routes(every: bool) -> None:
    taken = order(every=every)
    rows = torch.randn(ROWS, SIZE, dtype=torch.float64, requires_grad=True)
    assert torch.equal(routes.taken(rows, taken, K), rows[taken // K])
    assert torch.autograd.gradcheck(lambda rows: routes.taken(rows, taken, K), rows)


@pytest.mark.parametrize("every", [True, False])
def test_rows_come_back_to_where_they_were(every: bool) -> None:
    taken, chosen = order(every=every), torch.zeros(ROWS, K)
    out = torch.randn(len(taken), SIZE, dtype=torch.float64, requires_grad=True)
    back = routes.returned(out, taken, chosen)
    assert back.shape == (ROWS, K, SIZE)
    assert torch.equal(back.flatten(0, 1)[taken], out)
    assert back.flatten(0, 1).any(1).sum() == len(taken), "what was not taken is 0"
    assert torch.autograd.gradcheck(lambda out: routes.returned(out, taken, chosen), out)


def trained(config: PreTrainedConfig, *, ours: bool, idle: bool) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients; idle: no token is sent to the first experts."""
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config, experts_implementation="grouped_mm")
    gates: list[Any] = [router(layer) for layer in decoder_layers(model)]
    for gate in gates if idle else ():
        gate.weight.data[:3] = 0
        gate.weight.data[3:] *= 10
    if ours:
        routed.settle(model)
    assert sum("forward" in vars(module) for module in model.modules()) == (2 if ours else 0)
    rows = torch.randint(64, (2, 17))
    loss = cross_entropy(model(input_ids=rows[:, :-1], use_cache=False).logits.flatten(0, 1), rows[:, 1:].flatten())
    torch.autograd.backward(loss)
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("idle", [False, True])
@pytest.mark.parametrize("name", KNOWN)
def test_a_model_has_the_same_loss_and_gradients(name: str, idle: bool) -> None:
    expected, theirs = trained(KNOWN[name], ours=False, idle=idle)
    loss, own = trained(KNOWN[name], ours=True, idle=idle)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert own.keys() == theirs.keys()
    assert any("experts" in name for name in own)
    for parameter, gradient in own.items():
        assert torch.allclose(gradient, theirs[parameter], atol=1e-7), parameter


def test_experts_with_more_than_matrices_stay_as_they_are() -> None:
    narrow = {name: value for name, value in NARROW.items() if name != "moe_intermediate_size"}
    for config in (GptOssConfig(**narrow, num_local_experts=4, head_dim=8), LlamaConfig(**narrow)):
        model: Any = AutoModelForCausalLM.from_config(config)
        routed.settle(model)
        assert not any("forward" in vars(module) for module in model.modules())
