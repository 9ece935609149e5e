"""The run config as a whole, and how it is read from its file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from deepseek_trainer.config.base import ConfigError, Section
from deepseek_trainer.config.checkpoint import CheckpointSpec
from deepseek_trainer.config.data import DataSpec
from deepseek_trainer.config.trainer import TrainerSpec


class RunConfig(Section):
    """Everything that a training process is told; the content of the run-config file."""

    job: str = Field(description="Name of the job.")
    backend: Literal["auto", "nccl", "gloo"] = Field("auto", description="Collectives; auto takes nccl where CUDA is.")
    trainer: TrainerSpec
    data: DataSpec
    checkpoint: CheckpointSpec | None = Field(None, description="None: nothing is saved, and a restart starts over.")
    data_cache: str = Field(description="Folder for prepared token stores; shared by the ranks where it can be.")

    @model_validator(mode="after")
    def _keeps_its_audit(self) -> RunConfig:
        if self.data.audit and self.checkpoint is None:
            raise ValueError("data.audit is kept beside the checkpoints; set checkpoint, or remove data.audit")
        return self


def load(path: str | Path) -> RunConfig:
    """Reads and validates a run-config file.

    Raises:
        ConfigError: the file is missing or wrong; one line for each wrong field.
    """
    try:
        return RunConfig.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(
            f"run config {path}: {error.strerror}; mount it or set DEEPSEEKJOB_RUN_CONFIG_FILE"
        ) from error
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"run config {path}: " + "; ".join(lines)) from error
