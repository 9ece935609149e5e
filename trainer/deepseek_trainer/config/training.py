"""The loop: `spec.trainer.training` and `spec.trainer.evaluation`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from deepseek_trainer.config.base import Section
from deepseek_trainer.config.stability import GuardSpec, LossScaleSpec

Precision = Literal["fp32", "bf16", "fp16", "fp8"]


class TrainingSpec(Section):
    """The loop: how long, how much at once, how exact."""

    steps: Annotated[int, Field(ge=1, le=100_000_000)] = Field(
        description="Optimizer steps of the whole run, over all restarts."
    )
    global_batch_size: Annotated[int, Field(ge=1, le=1_048_576)] = Field(
        32,
        description="Sequences per optimizer step over all ranks. Any number of ranks shares it: it need not be divisible.",
    )
    micro_batch_size: Annotated[int, Field(ge=1, le=65_536)] = Field(
        8,
        description="Sequences per forward pass of one rank; the rest of its share is gradient accumulation.",
    )
    sequence_length: Annotated[int, Field(ge=8, le=1_048_576)] = Field(128, description="Tokens per sequence.")
    precision: Precision = Field(
        "fp32",
        description="Precision of the forward and backward pass; weights, gradients' sums and the optimizer are fp32 in all. "
        "fp16 scales the loss. fp8: of linear layers, with the rest in bf16; only on GPUs that have it (Ada, Hopper or newer), "
        "and with the torchao package in the image.",
    )
    loss_scale: LossScaleSpec = Field(default_factory=LossScaleSpec, description="For precision fp16.")
    z_loss: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0,
        description="Weight of the z-loss, the mean square of the logarithm of the softmax' denominator: it keeps logits small "
        "(1e-4 is usual). The reported loss is without it.",
    )
    guard: GuardSpec = Field(
        default_factory=GuardSpec, description="What becomes of a step whose loss is no number, or far too high."
    )
    deterministic: bool = Field(
        False,
        description="true: torch's deterministic algorithms alone, so that two runs on the same machines are alike bit for bit; "
        "slower, and an operation that has none fails. A CPU needs it for no part of the built-in trainer.",
    )
    activation_checkpointing: Literal["none", "selective", "full"] = Field(
        "none",
        description="What a layer's backward pass finds kept. none: all. selective: the outputs of matrix products and of "
        "attention; the rest is computed again. full: the layer's input alone, for a third more computation.",
    )
    compile: Literal["none", "layers"] = Field(
        "none",
        description="layers: decoder layers are compiled by torch.compile when they are first called, which takes a minute or so "
        "at each start of a pod and makes each step faster; of layers with experts all but the routed ones. Needs a C++ "
        "compiler in the image; compiled code is kept in /tmp, or in $TORCHINDUCTOR_CACHE_DIR.",
    )
    reduce_gradients: Literal["step", "microBatch"] = Field(
        "step",
        description="How often gradients are summed over the processes. step: once a step; until then each process holds whole "
        "gradients and gathered weights. microBatch: after each micro-batch, for less memory and more traffic.",
    )
    cpu_offload: bool = Field(
        False,
        description="true: weights, gradients and the optimizer's state lie in host memory, where the optimizer runs; a GPU "
        "has those of the layer that it computes. Slow, and for models that fit in no other way.",
    )
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = Field(
        0, description="Seed of the weights and of the data's order."
    )


class SamplesSpec(Section):
    """Texts that the model writes after each evaluation, into the worker's log and the run's logs."""

    prompts: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=2048)], ...], Field(min_length=1, max_length=16)
    ] = Field(description="What it goes on from; a text each.")
    new_tokens: Annotated[int, Field(ge=1, le=512)] = Field(
        64, description="Tokens that it writes behind each; fewer where it ends the text."
    )
    temperature: Annotated[float, Field(ge=0, le=2)] = Field(
        0.0,
        description="0: the likeliest token each time. Else what logits are divided by before a token is drawn, with the seed "
        "and the step: the same weights write the same.",
    )


class EvaluationSpec(Section):
    """Validation loss on the part of the data that is held out."""

    every_steps: Annotated[int, Field(ge=0)] = Field(
        50, description="Steps between evaluations; 0 evaluates only at the end."
    )
    batches: Annotated[int, Field(ge=1, le=100_000)] = Field(
        8, description="Micro-batches of each evaluation, over all ranks."
    )
    samples: SamplesSpec | None = Field(None, description="What the model writes after each. Without it, nothing.")
