"""The model: a causal language model of transformers, built without memory (on the meta device) from its configuration."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from deepseek_trainer.config import ConfigError, ModelSpec
from deepseek_trainer.errors import first_line
from deepseek_trainer.model import presets
from deepseek_trainer.model.attention import IMPLEMENTATIONS
from deepseek_trainer.model.mtp import MultiTokenModel
from deepseek_trainer.model.presets import MODEL_TYPES


def configuration(spec: ModelSpec, *, vocab_size: int, sequence_length: int) -> PreTrainedConfig:
    """The architecture that a preset and the config's numbers make.

    Raises:
        ConfigError: the numbers don't fit together.
    """
    chosen = presets.preset(spec)
    numbers = dict(chosen.numbers)
    if chosen.architecture != "GPT2":
        numbers["max_position_embeddings"] = sequence_length
    elif sequence_length > numbers["n_positions"]:
        raise ConfigError(
            f"trainer.training.sequenceLength: {sequence_length} is more than the {numbers['n_positions']} positions of "
            f"trainer.model.preset {spec.preset}, which are learned; lower it, or take another architecture"
        )
    if chosen.architecture.startswith("DeepSeek"):
        numbers["num_key_value_heads"] = numbers["num_attention_heads"]
    made = CONFIG_MAPPING[MODEL_TYPES[chosen.architecture]](**numbers, vocab_size=vocab_size, **_UNUSED_IDS)
    return for_training(made, spec)


_UNUSED_IDS: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def for_training(config: PreTrainedConfig, spec: ModelSpec) -> PreTrainedConfig:
    """The configuration with what the trainer decides: how things are computed, and nothing that makes a resume another run.

    Raises:
        ConfigError: modules for further tokens are asked for where there are none.
    """
    config._attn_implementation = IMPLEMENTATIONS[spec.attention]
    if config.model_type.startswith("deepseek"):
        config._experts_implementation = "grouped_mm"
    config.dtype = torch.float32
    config.use_cache = False
    for name, value in config.to_dict().items():
        if isinstance(value, (int, float)) and (name.endswith(("dropout", "pdrop"))):
            setattr(config, name, 0.0)
    if config.model_type == MODEL_TYPES["DeepSeekV3"]:
        config.num_mtp_layers = spec.multi_token.depth
    elif spec.multi_token.depth:
        raise ConfigError(
            f"trainer.model.multiToken.depth: a model of type {config.model_type} has no modules for further tokens; "
            "take architecture DeepSeekV3, or 0"
        )
    return config


def bare(config: PreTrainedConfig, *, trusted: bool = False) -> Any:
    """The model on the meta device.

    Returns:
        A causal language model; called with input_ids (batch, L) it answers with logits (batch, L, vocab_size).

    Raises:
        ConfigError: transformers has no such causal language model.
    """
    with torch.device("meta"):
        if config.model_type == MODEL_TYPES["DeepSeekV3"] and config.num_mtp_layers:
            return MultiTokenModel(config)
        try:
            return AutoModelForCausalLM.from_config(config, trust_remote_code=trusted)
        except (ValueError, ImportError) as error:
            raise ConfigError(
                f"a model of type {config.model_type} can't be built: {first_line(error)}; take a causal language model that "
                "transformers has, or, if you trust the code beside it, set trainer.model.trustRemoteCode"
            ) from error


def parameter_count(model: torch.nn.Module) -> int:
    """Trainable numbers in the whole model, over all ranks."""
    return sum(parameter.numel() for parameter in model.parameters())
