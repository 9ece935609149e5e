"""Rotary embeddings in closed form: the results and gradients of transformers' own, in the models whose formula it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from deepseek_trainer.kernels.rotary import apply_rotary_pos_emb
from deepseek_trainer.model import rotary
from transformers import (
    AutoModelForCausalLM,
    DeepseekV2Config,
    DeepseekV3Config,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3MoeConfig,
)
from transformers.models.llama import modeling_llama

pytestmark = pytest.mark.training

NEAR = {torch.float32: 1e-6, torch.bfloat16: 2e-2}
HEADS = [((6, 2), 1), ((4, 4), 2)]
"""Of queries and keys, and in which dimension they are."""
NARROW: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "pad_token_id": None,
}
LATENT: dict[str, Any] = {
    **NARROW,
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
}
MODELS: dict[str, tuple[PreTrainedConfig, int]] = {
    "Llama": (LlamaConfig(**NARROW), 2),
    "Qwen2": (Qwen2Config(**NARROW), 2),
    "Qwen3-MoE": (Qwen3MoeConfig(**NARROW, num_experts=4, num_experts_per_tok=2, head_dim=8), 2),
    "Gemma": (GemmaConfig(**NARROW, head_dim=8), 2),
    "DeepSeek-V3, halves": (DeepseekV3Config(**LATENT, rope_interleave=False), 2),
    "DeepSeek-V3, pairs": (DeepseekV3Config(**LATENT, rope_interleave=True), 2),
    "DeepSeek-V2": (DeepseekV2Config(**LATENT), 0),
    "GPT-2": (GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64), 0),
}
"""And how many of their modules it is in."""


def compare(heads: tuple[int, int], unsqueeze_dim: int, dtype: torch.dtype, device: str) -> None:
    """With halves whose angles differ, and with queries that don't lie together."""
    generator = torch.Generator().manual_seed(0)
    rows, tokens, size = 2, 5, 8
    cos, sin = torch.rand(2, rows, tokens, size, generator=generator).to(device, dtype).unbind()
    drawn = [torch.randn(rows, tokens, count, size, generator=generator).to(device, dtype) for count in heads]
    turned: list[tuple[torch.Tensor, ...]] = []
    for compute in (apply_rotary_pos_emb, modeling_llama.apply_rotary_pos_emb):
        inputs = [each.clone().requires_grad_() for each in drawn]
        queries, keys = (each.transpose(1, 2) if unsqueeze_dim == 1 else each for each in inputs)
        found = compute(queries, keys, cos, sin, unsqueeze_dim=unsqueeze_dim)
        weights = [torch.arange(each.numel(), device=device).view(each.shape).cos().to(dtype) for each in found]
        turned.append((*(each.detach() for each in found), *torch.autograd.grad(found, inputs, weights)))
    for own, known in zip(*turned, strict=True):
        assert own.dtype == known.dtype == dtype
        assert own.stride() == known.stride()
        assert torch.allclose(own, known, atol=NEAR[dtype], rtol=NEAR[dtype])


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize(("heads", "unsqueeze_dim"), HEADS)
def test_results_and_gradients_are_those_of_transformers(
    heads: tuple[int, int], unsqueeze_dim: int, dtype: torch.dtype
) -> None:
    compare(heads, unsqueeze_dim, dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU is visible")
def test_so_on_a_gpu() -> None:
    for heads, unsqueeze_dim in HEADS:
        for dtype in NEAR:
            compare(heads, unsqueeze_dim, dtype, "cuda")


@pytest.mark.parametrize("name", MODELS)
def test_a_model_computes_the_same(name: str) -> None:
    config, turned = MODELS[name]
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(config).eval()  # without dropout
    ours = copy.deepcopy(theirs)
    rotary.settle(ours)
    assert sum("forward" in vars(module) for module in ours.modules()) == turned
    tokens = torch.randint(64, (2, 12), generator=torch.Generator().manual_seed(1))
    places = torch.cat([torch.arange(5), torch.arange(7)]).expand(2, -1)
    losses = []
    for model in (theirs, ours):
        logits = model(input_ids=tokens, position_ids=places, use_cache=False).logits
        losses.append(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()))
        torch.autograd.backward(losses[-1])
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-6)
    for own, known in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (own.grad is None) == (known.grad is None)
        assert own.grad is None or known.grad is None or torch.allclose(own.grad, known.grad, atol=1e-6)


def test_attention_of_another_model_is_not_touched() -> None:
    """What is put in is the module's own: transformers' function stays what it is."""
    before = modeling_llama.LlamaAttention.forward, modeling_llama.apply_rotary_pos_emb
    rotary.settle(AutoModelForCausalLM.from_config(LlamaConfig(**NARROW)))
    assert (modeling_llama.LlamaAttention.forward, modeling_llama.apply_rotary_pos_emb) == before
