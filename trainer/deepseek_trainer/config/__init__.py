"""The trainer's run config: its one home, and importable without torch; a module for each section.

`TrainerSpec` and `DataSpec` are also the schema of `spec.trainer` and `spec.data` of a DeepSeekJob: `make
generate` writes them into the CRD, so that the API server refuses a misspelt field. Names are camelCase on
the wire; every field has a description, because it becomes `kubectl explain`.
"""

from __future__ import annotations

from deepseek_trainer.config.base import ConfigError, Section
from deepseek_trainer.config.batching import BatchingSpec, ShuffleSpec
from deepseek_trainer.config.checkpoint import CheckpointSpec, ResumeFrom
from deepseek_trainer.config.data import SHARD_BYTES, ChatSpec, DatasetSpec, DataSpec, DynamicSpec
from deepseek_trainer.config.logging import LoggingSpec
from deepseek_trainer.config.memory import MemorySpec
from deepseek_trainer.config.model import ExpertsSpec, ModelSpec, MultiTokenSpec
from deepseek_trainer.config.optimizer import MuonSpec, OptimizerSpec, ScheduleSpec
from deepseek_trainer.config.profile import ProfileSpec
from deepseek_trainer.config.run import RunConfig, load
from deepseek_trainer.config.stability import EmaSpec, GuardSpec, LossScaleSpec, SpectralCapSpec
from deepseek_trainer.config.tokenizer import TokenizerSpec
from deepseek_trainer.config.trainer import InitialWeights, TrainerSpec
from deepseek_trainer.config.training import EvaluationSpec, Precision, SamplesSpec, TrainingSpec

__all__ = [
    "SHARD_BYTES",
    "BatchingSpec",
    "ChatSpec",
    "CheckpointSpec",
    "ConfigError",
    "DataSpec",
    "DatasetSpec",
    "DynamicSpec",
    "EmaSpec",
    "EvaluationSpec",
    "ExpertsSpec",
    "GuardSpec",
    "InitialWeights",
    "LoggingSpec",
    "LossScaleSpec",
    "MemorySpec",
    "ModelSpec",
    "MultiTokenSpec",
    "MuonSpec",
    "OptimizerSpec",
    "Precision",
    "ProfileSpec",
    "ResumeFrom",
    "RunConfig",
    "SamplesSpec",
    "ScheduleSpec",
    "Section",
    "ShuffleSpec",
    "SpectralCapSpec",
    "TokenizerSpec",
    "TrainerSpec",
    "TrainingSpec",
    "load",
]
