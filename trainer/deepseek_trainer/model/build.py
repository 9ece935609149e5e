"""The model: transformers' DeepSeek-V3 (multi-head latent attention, mixture of experts) from random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3ForCausalLM

from deepseek_trainer.model.presets import ModelShape

IMPLEMENTATION: Mapping[str, Any] = {"attn_implementation": "sdpa", "experts_implementation": "grouped_mm"}
"""How attention and experts are computed, wherever the weights come from."""


def configuration(shape: ModelShape, *, vocab_size: int, sequence_length: int) -> DeepseekV3Config:
    """The architecture of this shape."""
    return DeepseekV3Config(
        **shape.to_json(),
        **IMPLEMENTATION,
        vocab_size=vocab_size,
        num_key_value_heads=shape.num_attention_heads,
        max_position_embeddings=sequence_length,
        n_group=1,
        topk_group=1,
        num_mtp_layers=0,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
    )


def build(config: DeepseekV3Config, *, seed: int) -> Any:
    """A model on the CPU in fp32, the same on every rank and for every number of ranks.

    Each rank draws all weights from the one seed and keeps its shard later, so the start doesn't depend on the
    layout. That bounds the model by a node's memory, which is right up to some billions of parameters.

    Returns:
        A DeepseekV3ForCausalLM; called with input_ids (batch, L) it answers with logits (batch, L, vocab_size).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DeepseekV3ForCausalLM(config)


def parameter_count(model: torch.nn.Module) -> int:
    """Trainable numbers in the whole model, over all ranks."""
    return sum(parameter.numel() for parameter in model.parameters())
