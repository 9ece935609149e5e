"""The built-in trainer, `spec.trainer`: its sections, and what must hold between them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from deepseek_trainer.config.base import Section
from deepseek_trainer.config.logging import LoggingSpec
from deepseek_trainer.config.mesh import ZERO_BUBBLE
from deepseek_trainer.config.model import ModelSpec
from deepseek_trainer.config.optimizer import OptimizerSpec
from deepseek_trainer.config.parallelism import ParallelismSpec
from deepseek_trainer.config.profile import ProfileSpec
from deepseek_trainer.config.tokenizer import TokenizerSpec
from deepseek_trainer.config.training import EvaluationSpec, TrainingSpec


class InitialWeights(Section):
    """A model in the format of Hugging Face: config.json and safetensors, as `save_pretrained` writes them."""

    path: Annotated[str, Field(min_length=1, max_length=4096, pattern="^/")] = Field(
        description="Its folder, on a volume of the workers; absolute. It must stay while the job runs, because the "
        "architecture and the tokenizer are read from it at each start."
    )


class TrainerSpec(Section):
    """The built-in trainer."""

    task: Literal["pretrain", "finetune"] = Field(
        "pretrain",
        description="pretrain: from random weights. finetune: from initialWeights, on the same objective (the next "
        "token). Either goes on from the newest checkpoint when there is one.",
    )
    initial_weights: InitialWeights | None = Field(
        None, description="The model that task finetune starts from; only for that task, and required by it."
    )
    model: ModelSpec = Field(default_factory=ModelSpec, description="What is trained.")
    tokenizer: TokenizerSpec = Field(default_factory=TokenizerSpec, description="How text becomes tokens.")
    training: TrainingSpec = Field(description="Steps, batch and sequence sizes, precision, seed.")
    parallelism: ParallelismSpec = Field(
        default_factory=ParallelismSpec, description="How the processes share the batch and the model."
    )
    optimizer: OptimizerSpec = Field(default_factory=OptimizerSpec, description="The optimizer and its schedule.")
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec, description="Validation.")
    logging: LoggingSpec = Field(default_factory=LoggingSpec, description="Where the run's figures are written down.")
    profile: ProfileSpec = Field(default_factory=ProfileSpec, description="Traces of torch's profiler.")

    @model_validator(mode="after")
    def _weights_fit_the_task(self) -> TrainerSpec:
        finetune = self.task == "finetune"
        if finetune and self.initial_weights is None:
            raise ValueError("task finetune needs initialWeights; set initialWeights.path to the folder of a model")
        if not finetune and (self.initial_weights or self.tokenizer.kind == "initialWeights"):
            raise ValueError(
                "initialWeights, and tokenizer.kind of that name, belong to task finetune; set task, or remove them"
            )
        if finetune and not self.model.is_default:
            raise ValueError(
                "with task finetune the architecture comes from the config.json of initialWeights; remove model"
            )
        if finetune and self.tokenizer.kind == "bpe":
            raise ValueError(
                "tokenizer.kind bpe makes a new vocabulary, which means nothing to trained weights; "
                "with task finetune set tokenizer.kind to initialWeights (or deepseek)"
            )
        return self

    @model_validator(mode="after")
    def _fits_its_mesh(self) -> TrainerSpec:
        if self.parallelism.tensor > 1 and self.training.precision == "fp8":
            raise ValueError(
                "parallelism.tensor computes matrices in parts, and fp8 whole ones; take bf16, or tensor 1"
            )
        if self.parallelism.context > 1 and self.model.attention != "SDPA":
            raise ValueError(
                "parallelism.context has an attention of its own, in a ring; set model.attention to SDPA, or context to 1"
            )
        split = self.parallelism.pipeline > 1 and self.parallelism.pipeline_schedule in ZERO_BUBBLE
        if split and (self.training.compile != "none" or self.training.precision == "fp8"):
            raise ValueError(
                f"parallelism.pipelineSchedule {self.parallelism.pipeline_schedule} splits the backward pass of each matrix, which "
                "compiled layers and fp8 have in one; set training.compile to none and precision to bf16, or take Interleaved1F1B"
            )
        if max(self.parallelism.tensor, self.parallelism.context) > 1 and self.training.compile != "none":
            raise ValueError(
                "parallelism.tensor and context are not compiled; set training.compile to none, or tensor and context to 1"
            )
        return self

    @model_validator(mode="after")
    def _reaches_its_peak(self) -> TrainerSpec:
        # The default must not make a short trial run wrong: it then ends before the peak.
        default = OptimizerSpec().warmup_steps
        if self.optimizer.warmup_steps > max(default, self.training.steps):
            raise ValueError(
                f"optimizer.warmupSteps ({self.optimizer.warmup_steps}) is more than training.steps "
                f"({self.training.steps}): the peak learning rate would never be reached; lower warmupSteps or raise steps"
            )
        return self
