"""The formulas of `dsj plan` count what torch counts: the same models on the meta device, which have no memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from deepseek_trainer.distributed import ring
from deepseek_trainer.model.mtp import MultiTokenModel
from deepseek_trainer.plan import memory
from deepseek_trainer.plan.architecture import Architecture
from transformers.models.deepseek_v2.configuration_deepseek_v2 import DeepseekV2Config
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2ForCausalLM
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3ForCausalLM
from transformers.models.gpt2.configuration_gpt2 import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM

pytestmark = pytest.mark.training

DENSE: dict[str, Any] = {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 8}
MODELS = {
    "DeepSeek-V3": (DeepseekV3ForCausalLM, DeepseekV3Config(num_hidden_layers=5, num_mtp_layers=0)),
    "DeepSeek-V3, two further tokens": (MultiTokenModel, DeepseekV3Config(num_hidden_layers=4, num_mtp_layers=2)),
    "DeepSeek-V2": (DeepseekV2ForCausalLM, DeepseekV2Config(num_hidden_layers=3)),
    "without compressed queries": (
        DeepseekV3ForCausalLM,
        DeepseekV3Config(num_hidden_layers=4, num_mtp_layers=0, q_lora_rank=None),
    ),
    "Llama": (LlamaForCausalLM, LlamaConfig(**DENSE, num_key_value_heads=2)),
    "Qwen2": (Qwen2ForCausalLM, Qwen2Config(**DENSE, num_key_value_heads=4)),
    "GPT-2": (GPT2LMHeadModel, GPT2Config(vocab_size=1000, n_embd=64, n_head=8, n_layer=3, n_positions=128)),
    "Qwen2, tied": (Qwen2ForCausalLM, Qwen2Config(**DENSE, num_key_value_heads=4, tie_word_embeddings=True)),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_parameters_are_those_of_the_meta_device(name: str) -> None:
    made, config = MODELS[name]
    with torch.device("meta"):
        model = made(config)
    assert Architecture.of(config).parameters == sum(parameter.numel() for parameter in model.parameters())


def test_the_ring_computes_as_many_scores_at_once_as_the_formulas_say() -> None:
    assert memory.RING_SCORES == ring.SCORES * 12  # twice in fp32 and twice in half precision
