"""What is trained: `spec.trainer.model`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from deepseek_trainer.config.base import Section


class ModelSpec(Section):
    """A DeepSeek-V3 architecture (multi-head latent attention, mixture of experts), trained from random weights.

    With task finetune it comes from the config.json of initialWeights instead, and nothing may be set here.
    """

    preset: Literal["tiny", "small"] = Field(
        "tiny",
        description="Named size that the other fields start from: tiny (about 1.5 million parameters, trains on a CPU) "
        "or small (about 25 million).",
    )
    hidden_size: Annotated[int, Field(ge=16, le=16384)] | None = Field(
        None, description="Width of the residual stream. Default: the preset's."
    )
    num_layers: Annotated[int, Field(ge=1, le=256)] | None = Field(
        None, description="Number of decoder layers. Default: the preset's."
    )
    num_attention_heads: Annotated[int, Field(ge=1, le=256)] | None = Field(
        None, description="Number of attention heads. Default: the preset's."
    )
    num_experts: Annotated[int, Field(ge=2, le=1024)] | None = Field(
        None, description="Routed experts in each mixture-of-experts layer. Default: the preset's."
    )
    experts_per_token: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description="Routed experts that each token is sent to. Default: the preset's."
    )

    @property
    def is_default(self) -> bool:
        """Whether nothing was chosen."""
        return self == ModelSpec()

    @model_validator(mode="after")
    def _enough_experts(self) -> ModelSpec:
        if self.num_experts and self.experts_per_token and self.experts_per_token > self.num_experts:
            raise ValueError("expertsPerToken is more than numExperts; lower expertsPerToken or raise numExperts")
        return self
