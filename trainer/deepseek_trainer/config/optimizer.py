"""What becomes of a gradient: `spec.trainer.optimizer`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from deepseek_trainer.config.base import Section


class OptimizerSpec(Section):
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] = Field(3e-3, description="Peak learning rate.")
    min_learning_rate_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="Final learning rate as a share of the peak."
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(20, description="Steps of linear warm-up.")
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="Decoupled weight decay of matrices; norms and biases are not decayed."
    )
    beta1: Annotated[float, Field(gt=0, lt=1)] = Field(0.9, description="First-moment decay of AdamW.")
    beta2: Annotated[float, Field(gt=0, lt=1)] = Field(0.95, description="Second-moment decay of AdamW.")
    gradient_clip: Annotated[float, Field(gt=0)] = Field(1.0, description="Largest global gradient norm.")
