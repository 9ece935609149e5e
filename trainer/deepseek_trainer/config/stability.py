"""What keeps training stable: loss scaling, guards, averaged weights, bounded matrices."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from deepseek_trainer.config.base import Section

Policy = Literal["Fail", "SkipStep", "Rollback"]


class LossScaleSpec(Section):
    """fp16 has no numbers below 6e-8: the loss is multiplied before the backward pass, and the gradient divided after it."""

    initial: Annotated[float, Field(ge=1, le=2**24)] = Field(65536.0, description="Scale of the first step.")
    growth_steps: Annotated[int, Field(ge=1)] = Field(
        2000, description="Steps without an overflow after which the scale is doubled. An overflow halves it."
    )


class GuardSpec(Section):
    """What becomes of a step that would do harm. Its samples count as consumed, whatever is done."""

    on_non_finite: Policy = Field(
        "Fail",
        description="When the loss or the gradient is no number. Fail: the process fails before the weights change. SkipStep: the "
        "step leaves weights and optimizer as they are. Rollback: training goes back to the last checkpoint, and leaves "
        "out this step when it comes by again.",
    )
    on_spike: Literal["Ignore", "Fail", "SkipStep", "Rollback"] = Field(
        "Ignore", description="When the loss is far above that of the last steps: as with onNonFinite, or Ignore."
    )
    spike_deviations: Annotated[float, Field(gt=0)] = Field(
        6.0, description="How many standard deviations of the last losses above their mean a spike is."
    )
    window_steps: Annotated[int, Field(ge=8, le=10_000)] = Field(
        64, description="How many last losses that are; before there are so many nothing is a spike."
    )
    max_skipped_steps: Annotated[int, Field(ge=1)] = Field(
        10, description="Steps in a row that SkipStep may leave out; with one more the process fails."
    )
    rollback_steps: Annotated[int, Field(ge=1, le=10_000)] = Field(
        1, description="How many steps Rollback leaves out: those up to the bad one."
    )


class EmaSpec(Section):
    """An exponential moving average of the weights, beside them in every checkpoint; as much memory as the weights in fp32."""

    decay: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.999, description="What a step leaves of the average; in step t it is (1 + t) / (10 + t), if that is less."
    )
    evaluate: bool = Field(
        True, description="Whether evaluations are of the average, and not of the weights themselves."
    )


class SpectralCapSpec(Section):
    """A bound of the largest singular value of weight matrices, kept by scaling them down after each step."""

    weights: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=256)], ...], Field(min_length=1, max_length=64)
    ] = Field(description='Patterns of parameter names, as "*.self_attn.o_proj.weight"; of experts each for itself.')
    limit: Annotated[float, Field(gt=0)] = Field(description="The bound.")
