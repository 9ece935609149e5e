"""What becomes of a gradient: `spec.trainer.optimizer`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from deepseek_trainer.config.base import Section
from deepseek_trainer.config.stability import EmaSpec, SpectralCapSpec


class ScheduleSpec(Section):
    """The learning rate after the warm-up; a function of the step alone."""

    kind: Literal["Cosine", "Linear", "WSD", "Constant"] = Field(
        "Cosine",
        description="Cosine: half a wave from the peak to its minLearningRateRatio at the last step. Linear: a line between "
        "them. WSD (warm-up, stable, decay): the peak, then a line over the last steps. Constant: the peak.",
    )
    decay_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.2, description="With WSD: the share of all steps, at the end, over which the rate falls."
    )


class MuonSpec(Section):
    """Muon: the momentum of a matrix, orthogonalised."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.95, description="Decay of the momentum (Nesterov's).")
    newton_schulz_steps: Annotated[int, Field(ge=1, le=20)] = Field(
        5, description="Newton-Schulz iterations that orthogonalise a matrix."
    )


class OptimizerSpec(Section):
    """AdamW or Muon, the learning rate, and what keeps an update in bounds."""

    kind: Literal["AdamW", "Muon"] = Field(
        "AdamW",
        description="AdamW: of all parameters. Muon: of the hidden matrices (of experts each for itself), scaled so that "
        "learningRate and weightDecay mean what they mean for AdamW; embeddings, the head, norms and biases stay with AdamW.",
    )
    learning_rate: Annotated[float, Field(gt=0, le=1)] = Field(3e-3, description="Peak learning rate.")
    min_learning_rate_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="Final learning rate as a share of the peak; not with schedule Constant."
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(20, description="Steps of linear warm-up.")
    schedule: ScheduleSpec = Field(default_factory=ScheduleSpec, description="The learning rate after the warm-up.")
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="Decoupled weight decay of matrices; norms and biases are not decayed."
    )
    beta1: Annotated[float, Field(gt=0, lt=1)] = Field(0.9, description="First-moment decay of AdamW.")
    beta2: Annotated[float, Field(gt=0, lt=1)] = Field(0.95, description="Second-moment decay of AdamW.")
    gradient_clip: Annotated[float, Field(gt=0)] = Field(1.0, description="Largest global gradient norm.")
    muon: MuonSpec = Field(default_factory=MuonSpec, description="For kind Muon.")
    ema: EmaSpec | None = Field(
        None, description="An exponential moving average of the weights. Default: none is kept."
    )
    spectral_cap: SpectralCapSpec | None = Field(
        None, description="A bound of the largest singular value of weight matrices. Default: there is none."
    )
