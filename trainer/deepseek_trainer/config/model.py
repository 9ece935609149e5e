"""What is trained: `spec.trainer.model`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from deepseek_trainer.config.base import Section

DEEPSEEK, GROUPED = ("DeepSeekV3", "DeepSeekV2"), ("Qwen2", "Llama")
ARCHITECTURE_OF = {
    "reference": "GPT2",
    "deepseek-v2-lite": "DeepSeekV2",
    "deepseek-v2": "DeepSeekV2",
    "deepseek-v3": "DeepSeekV3",
    "r1-distill-qwen-1.5b": "Qwen2",
    "r1-distill-qwen-7b": "Qwen2",
    "r1-distill-qwen-14b": "Qwen2",
    "r1-distill-qwen-32b": "Qwen2",
    "r1-distill-llama-8b": "Llama",
    "r1-distill-llama-70b": "Llama",
}
"""Presets that are of one architecture; the others are of any."""
HOW = ("attention", "norm", "experts", "multi_token", "trust_remote_code")
"""Fields that say how a model is trained, and not which."""


class ExpertsSpec(Section):
    """How the experts of DeepSeek-V3 and DeepSeek-V2 are kept in balance. Other architectures don't look at it."""

    bias_update_rate: Annotated[float, Field(ge=0, le=1)] = Field(
        0.001,
        description="Balance without an auxiliary loss (DeepSeekV3): after each step the bias of an expert that got more tokens "
        "than the mean goes down by this, of one that got fewer up. 0 leaves the biases as they are.",
    )
    sequence_loss: Annotated[float, Field(ge=0, le=10)] = Field(
        0.0001,
        description="Weight of the sequence-wise balance loss in the gradient; the loss that is reported doesn't have it in it. "
        "DeepSeek-V2 was trained with 0.001. 0: none.",
    )
    capacity_factor: Annotated[float, Field(gt=0, le=1024)] | None = Field(
        None,
        description="An expert takes at most this times an equal share of a sequence's tokens; for the later ones it adds nothing, "
        "and they are counted. Only while training. Default: no token is dropped.",
    )


class MultiTokenSpec(Section):
    """Multi-token prediction of DeepSeek-V3: modules behind the model that predict the tokens after the next, while training."""

    depth: Annotated[int, Field(ge=0, le=8)] = Field(
        0, description="Modules, of which each predicts one token further; 0: none. DeepSeekV3 only, which had 1."
    )
    loss_weight: Annotated[float, Field(ge=0, le=10)] = Field(
        0.3,
        description="Weight of the mean of their losses in the gradient; the loss that is reported doesn't have them in it.",
    )


class ModelSpec(Section):
    """What is trained: a causal language model. Without anything said it is a tiny DeepSeek-V3 with random weights.

    With task finetune it is what the config.json of initialWeights says, and no size may be set here.
    """

    preset: Literal[
        "tiny",
        "small",
        "reference",
        "deepseek-v2-lite",
        "deepseek-v2",
        "deepseek-v3",
        "r1-distill-qwen-1.5b",
        "r1-distill-qwen-7b",
        "r1-distill-qwen-14b",
        "r1-distill-qwen-32b",
        "r1-distill-llama-8b",
        "r1-distill-llama-70b",
    ] = Field(
        "tiny",
        description="Named size that the other fields start from. Of any architecture: tiny (about 1.5 million parameters, "
        "trains on a CPU) and small (about 25 million). reference: a GPT of 356 million. The others are of the size of the "
        "published model of that name.",
    )
    architecture: Literal["DeepSeekV3", "DeepSeekV2", "Qwen2", "Llama", "GPT2"] | None = Field(
        None,
        description="For presets tiny and small. DeepSeekV3 (latent attention, mixture of experts with biases for balance), "
        "DeepSeekV2, Qwen2 and Llama (dense, as the distilled R1 models), GPT2. Default: DeepSeekV3.",
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
    num_key_value_heads: Annotated[int, Field(ge=1, le=256)] | None = Field(
        None,
        description="Heads of keys and values that the attention heads share (Qwen2, Llama). Default: the preset's.",
    )
    intermediate_size: Annotated[int, Field(ge=16, le=131072)] | None = Field(
        None, description="Width of the dense feed-forward layers. Default: the preset's."
    )
    num_experts: Annotated[int, Field(ge=2, le=1024)] | None = Field(
        None, description="Routed experts in each mixture-of-experts layer. Default: the preset's."
    )
    experts_per_token: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description="Routed experts that each token is sent to. Default: the preset's."
    )
    expert_intermediate_size: Annotated[int, Field(ge=16, le=131072)] | None = Field(
        None, description="Width of an expert. Default: the preset's."
    )
    path: Annotated[str, Field(min_length=1, max_length=4096, pattern="^/")] | None = Field(
        None,
        description="Folder with a config.json of Hugging Face, on a volume of the workers, absolute: any causal language model "
        "that transformers has, from random weights. In place of preset, architecture and sizes.",
    )
    trust_remote_code: bool = Field(
        False,
        description="Whether Python files beside the config.json of path or initialWeights are run, for an architecture that "
        "transformers doesn't have. They can do whatever the worker can.",
    )
    attention: Literal["SDPA", "Flash", "Flex", "Eager"] = Field(
        "SDPA",
        description="How attention is computed; the numbers are the same to rounding. SDPA: torch's, which takes the fastest "
        "kernel there is, on any device. Flash: FlashAttention 2 (a GPU, bf16, and the package flash-attn in the image). Flex: "
        "torch's flex attention (a GPU), which skips what document masks hide. Eager: written out, to compare with.",
    )
    norm: Literal["Auto", "Eager", "Fused"] = Field(
        "Auto",
        description="How RMSNorm is computed; the numbers are the same to rounding. Eager: as transformers writes it. Fused: by one "
        "Triton kernel forward and one backward, or the job fails and says why (a GPU; Triton and a C compiler in the image). "
        "Auto: with training.compile Eager; else on a GPU Fused, where it can be had, and on a CPU in fp32 with the gradient in "
        "closed form, which takes fewer passes over memory.",
    )
    experts: ExpertsSpec = Field(default_factory=ExpertsSpec, description="Balance of a mixture of experts.")
    multi_token: MultiTokenSpec = Field(
        default_factory=MultiTokenSpec, description="Prediction of more tokens than the next."
    )

    @property
    def is_default(self) -> bool:
        """Whether no architecture was chosen: what remains is how it is trained."""
        return self == ModelSpec(**{name: getattr(self, name) for name in HOW})

    @property
    def kind(self) -> str | None:
        """The architecture; None: a config.json says it."""
        return None if self.path else self.architecture or ARCHITECTURE_OF.get(self.preset, "DeepSeekV3")

    @model_validator(mode="after")
    def _enough_experts(self) -> ModelSpec:
        if self.num_experts and self.experts_per_token and self.experts_per_token > self.num_experts:
            raise ValueError("expertsPerToken is more than numExperts; lower expertsPerToken or raise numExperts")
        return self

    @model_validator(mode="after")
    def _one_architecture(self) -> ModelSpec:
        if self.path is not None and self.model_copy(update={"path": None}).is_default is False:
            raise ValueError("path says the whole architecture; remove preset, architecture and sizes, or path")
        if self.architecture is not None and (own := ARCHITECTURE_OF.get(self.preset)):
            raise ValueError(f"preset {self.preset} is of architecture {own}; remove architecture, or take preset tiny")
        return self

    @model_validator(mode="after")
    def _sizes_of_the_architecture(self) -> ModelSpec:
        experts = {
            "numExperts": self.num_experts,
            "expertsPerToken": self.experts_per_token,
            "expertIntermediateSize": self.expert_intermediate_size,
        }
        wrong = [name for name, value in experts.items() if value is not None]
        if wrong and self.kind not in DEEPSEEK:
            raise ValueError(f"{self.kind} has no experts; remove {', '.join(wrong)}, or take architecture DeepSeekV3")
        if self.num_key_value_heads is not None and self.kind not in GROUPED:
            raise ValueError(f"the heads of {self.kind} share nothing; remove numKeyValueHeads")
        if self.multi_token.depth and self.kind not in ("DeepSeekV3", None):
            raise ValueError(f"{self.kind} predicts the next token only; set multiToken.depth to 0")
        return self
