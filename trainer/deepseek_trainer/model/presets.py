"""The named model sizes, and what a config makes of them. Plain numbers: importable without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from deepseek_trainer.config import ConfigError, ModelSpec


@dataclass(frozen=True)
class ModelShape:
    """The shape of a DeepSeek-V3 model. Names are transformers' (`DeepseekV3Config`).

    Attributes:
        first_k_dense_replace: leading layers with a dense feed-forward instead of experts.
        kv_lora_rank, q_lora_rank: width of the latent that keys and values, and queries, are compressed to.
        routed_scaling_factor: weight of the routed experts' output against the shared expert's.
    """

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    n_routed_experts: int
    num_experts_per_tok: int
    intermediate_size: int
    moe_intermediate_size: int
    q_lora_rank: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    first_k_dense_replace: int = 1
    n_shared_experts: int = 1
    routed_scaling_factor: float = 1.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


PRESETS = {
    "tiny": ModelShape(
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        n_routed_experts=16,
        num_experts_per_tok=2,
        intermediate_size=256,
        moe_intermediate_size=64,
        q_lora_rank=64,
        kv_lora_rank=32,
        qk_nope_head_dim=16,
        qk_rope_head_dim=16,
        v_head_dim=32,
    ),
    "small": ModelShape(
        hidden_size=384,
        num_hidden_layers=8,
        num_attention_heads=6,
        n_routed_experts=16,
        num_experts_per_tok=4,
        intermediate_size=1024,
        moe_intermediate_size=160,
        q_lora_rank=192,
        kv_lora_rank=96,
        qk_nope_head_dim=32,
        qk_rope_head_dim=32,
        v_head_dim=64,
        routed_scaling_factor=2.5,
    ),
}


def shape(spec: ModelSpec) -> ModelShape:
    """The preset with the config's own numbers in it.

    Raises:
        ConfigError: the numbers don't fit together.
    """
    own = {
        "hidden_size": spec.hidden_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_attention_heads,
        "n_routed_experts": spec.num_experts,
        "num_experts_per_tok": spec.experts_per_token,
    }
    chosen = replace(PRESETS[spec.preset], **{name: value for name, value in own.items() if value is not None})
    if chosen.num_experts_per_tok > chosen.n_routed_experts:
        raise ConfigError(
            f"trainer.model.expertsPerToken: {chosen.num_experts_per_tok} is more than the "
            f"{chosen.n_routed_experts} experts; lower it, or raise trainer.model.numExperts"
        )
    return chosen
