"""The named model sizes, and what a config makes of them. Plain numbers: importable without torch.

The sizes that are named after a published model are those of its config.json. What isn't about size is left out of them:
positions go as far as `trainer.training.sequenceLength`, without the stretching that published models got after training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from deepseek_trainer.config import ConfigError, ModelSpec
from deepseek_trainer.config.model import ARCHITECTURE_OF, DEEPSEEK

MODEL_TYPES = {
    "DeepSeekV3": "deepseek_v3",
    "DeepSeekV2": "deepseek_v2",
    "Qwen2": "qwen2",
    "Llama": "llama",
    "GPT2": "gpt2",
}
"""Transformers' names of the architectures."""

_DENSE = {
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
}
_GROUPED = _DENSE | {"num_key_value_heads": "num_key_value_heads"}
_EXPERTS = _DENSE | {
    "num_experts": "n_routed_experts",
    "experts_per_token": "num_experts_per_tok",
    "expert_intermediate_size": "moe_intermediate_size",
}
FIELDS: Mapping[str, Mapping[str, str]] = {
    "DeepSeekV3": _EXPERTS,
    "DeepSeekV2": _EXPERTS,
    "Qwen2": _GROUPED,
    "Llama": _GROUPED,
    "GPT2": {
        "hidden_size": "n_embd",
        "num_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
    },
}
"""Field of the config -> transformers' name of it, by architecture."""


@dataclass(frozen=True)
class Preset:
    """An architecture's numbers, by transformers' names."""

    architecture: str
    numbers: Mapping[str, Any]


def _latent(queries: int | None, keys: int, nope: int, rope: int, values: int) -> dict[str, Any]:
    """Of multi-head latent attention: what queries, and keys and values, are compressed to; dimensions of a head."""
    return {
        "q_lora_rank": queries,
        "kv_lora_rank": keys,
        "qk_nope_head_dim": nope,
        "qk_rope_head_dim": rope,
        "v_head_dim": values,
    }


def _sizes(hidden: int, layers: int, heads: int, intermediate: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
    }


def _experts(
    routed: int, each: int, size: int, *, shared: int = 1, dense: int = 1, scaling: float = 1.0
) -> dict[str, Any]:
    """Of the mixture: routed experts, of these for each token, their width; leading layers without any."""
    return {
        "n_routed_experts": routed,
        "num_experts_per_tok": each,
        "moe_intermediate_size": size,
        "n_shared_experts": shared,
        "first_k_dense_replace": dense,
        "routed_scaling_factor": scaling,
    }


def _groups(groups: int, used: int) -> dict[str, int]:
    return {"n_group": groups, "topk_group": used}


def _grouped(sizes: dict[str, Any], key_values: int, *, theta: float, eps: float) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": theta}
    return {**sizes, "num_key_value_heads": key_values, "rope_parameters": rope, "rms_norm_eps": eps}


def _gpt2(hidden: int, layers: int, heads: int, inner: int, positions: int) -> dict[str, Any]:
    return {"n_embd": hidden, "n_layer": layers, "n_head": heads, "n_inner": inner, "n_positions": positions}


_LIMITED = {"topk_method": "group_limited_greedy"}
SIZED: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "tiny": {
        "DeepSeekV3": {**_sizes(128, 4, 4, 256), **_experts(16, 2, 64), **_latent(64, 32, 16, 16, 32), **_groups(1, 1)},
        "DeepSeekV2": {**_sizes(128, 4, 4, 256), **_experts(16, 2, 64), **_latent(None, 32, 16, 16, 32)},
        "Qwen2": _grouped(_sizes(128, 4, 4, 384), 2, theta=1e4, eps=1e-6),
        "Llama": _grouped(_sizes(128, 4, 4, 384), 2, theta=1e4, eps=1e-5),
        "GPT2": _gpt2(128, 4, 4, 512, 1024),
    },
    "small": {
        "DeepSeekV3": {
            **_sizes(384, 8, 6, 1024),
            **_experts(16, 4, 160, scaling=2.5),
            **_latent(192, 96, 32, 32, 64),
            **_groups(1, 1),
        },
        "DeepSeekV2": {**_sizes(384, 8, 6, 1024), **_experts(16, 4, 160, shared=2), **_latent(None, 96, 32, 32, 64)},
        "Qwen2": _grouped(_sizes(384, 8, 6, 1536), 2, theta=1e4, eps=1e-6),
        "Llama": _grouped(_sizes(384, 8, 6, 1536), 2, theta=1e4, eps=1e-5),
        "GPT2": _gpt2(384, 8, 6, 1536, 1024),
    },
}
"""Presets that every architecture has."""

_MLA = (512, 128, 64, 128)
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "reference": _gpt2(1024, 24, 16, 4096, 2048),
    "deepseek-v2-lite": {**_sizes(2048, 27, 16, 10944), **_experts(64, 6, 1408, shared=2), **_latent(None, *_MLA)},
    "deepseek-v2": {
        **_sizes(5120, 60, 128, 12288),
        **_experts(160, 6, 1536, shared=2, scaling=16.0),
        **_latent(1536, *_MLA),
        **_groups(8, 3),
        **_LIMITED,
    },
    "deepseek-v3": {
        **_sizes(7168, 61, 128, 18432),
        **_experts(256, 8, 2048, dense=3, scaling=2.5),
        **_latent(1536, *_MLA),
        **_groups(8, 4),
    },
    "r1-distill-qwen-1.5b": _grouped(_sizes(1536, 28, 12, 8960), 2, theta=1e4, eps=1e-6),
    "r1-distill-qwen-7b": _grouped(_sizes(3584, 28, 28, 18944), 4, theta=1e4, eps=1e-6),
    "r1-distill-qwen-14b": _grouped(_sizes(5120, 48, 40, 13824), 8, theta=1e6, eps=1e-5),
    "r1-distill-qwen-32b": _grouped(_sizes(5120, 64, 40, 27648), 8, theta=1e6, eps=1e-5),
    "r1-distill-llama-8b": _grouped(_sizes(4096, 32, 32, 14336), 8, theta=5e5, eps=1e-5),
    "r1-distill-llama-70b": _grouped(_sizes(8192, 80, 64, 28672), 8, theta=5e5, eps=1e-5),
}
"""Presets of one architecture each."""


def preset(spec: ModelSpec) -> Preset:
    """The preset with the config's own numbers in it.

    Raises:
        ConfigError: the numbers don't fit together.
    """
    architecture = ARCHITECTURE_OF.get(spec.preset) or spec.architecture or "DeepSeekV3"
    numbers = dict(PUBLISHED[spec.preset] if spec.preset in PUBLISHED else SIZED[spec.preset][architecture])
    for field, name in FIELDS[architecture].items():
        if (value := getattr(spec, field)) is not None:
            numbers[name] = value
    if architecture in DEEPSEEK:
        _check_experts(numbers)
    else:
        _check_heads(FIELDS[architecture], numbers)
    if architecture == "DeepSeekV2" and numbers["hidden_size"] % numbers["num_attention_heads"]:
        raise ConfigError(_indivisible(numbers["hidden_size"], numbers["num_attention_heads"]))
    return Preset(architecture, numbers)


def shape(spec: ModelSpec) -> SimpleNamespace:
    """What `preset` says, by the names that most of transformers' configs have.

    Raises:
        ConfigError: the numbers don't fit together.
    """
    chosen = preset(spec)
    numbers = {"model_type": MODEL_TYPES[chosen.architecture], **chosen.numbers}
    if chosen.architecture == "GPT2":
        own = FIELDS["GPT2"]
        numbers |= {name: numbers[own[field]] for field, name in _DENSE.items()} | {"tie_word_embeddings": True}
    return SimpleNamespace(**numbers)


def _check_experts(numbers: Mapping[str, Any]) -> None:
    experts, each = numbers["n_routed_experts"], numbers["num_experts_per_tok"]
    if each > experts:
        raise ConfigError(
            f"trainer.model.expertsPerToken: {each} is more than the {experts} experts; lower it, or raise "
            "trainer.model.numExperts"
        )
    groups, used = numbers.get("n_group") or 1, numbers.get("topk_group") or 1
    if experts % groups or each > experts // groups * used:
        raise ConfigError(
            f"trainer.model.numExperts: {experts} experts in {groups} groups, of which a token may use {used}, don't give each "
            f"token {each}; take a multiple of {groups}, {groups * -(-each // used)} at least"
        )


def _check_heads(names: Mapping[str, str], numbers: Mapping[str, Any]) -> None:
    hidden, heads = numbers[names["hidden_size"]], numbers[names["num_attention_heads"]]
    if hidden % heads:
        raise ConfigError(_indivisible(hidden, heads))
    if "num_key_value_heads" not in names:
        return
    if hidden // heads % 2:
        raise ConfigError(
            f"trainer.model.hiddenSize: {hidden} in {heads} heads is {hidden // heads} each, and positions are turned in pairs; "
            f"take a multiple of {2 * heads}"
        )
    if heads % numbers["num_key_value_heads"]:
        raise ConfigError(
            f"trainer.model.numKeyValueHeads: {heads} heads can't share {numbers['num_key_value_heads']} evenly; "
            "take a divisor of trainer.model.numAttentionHeads"
        )


def _indivisible(hidden: int, heads: int) -> str:
    return f"trainer.model.hiddenSize: {hidden} is no multiple of the {heads} attention heads; change one of the two"
