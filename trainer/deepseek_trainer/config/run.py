"""The run config as a whole, and how it is read from its file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from deepseek_trainer.config import problems
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
    def _leases_fit_the_mesh(self) -> RunConfig:
        mesh = self.trainer.parallelism
        if self.data.mode == "Dynamic" and max(mesh.tensor, mesh.context, mesh.pipeline) > 1:
            raise ValueError(
                "mode Dynamic leases rows to each process, and those of a tensor or context group or of a pipeline need the same "
                "ones; set data.mode to Deterministic, or trainer.parallelism.tensor, context and pipeline to 1"
            )
        return self

    @model_validator(mode="after")
    def _keeps_its_audit(self) -> RunConfig:
        if self.data.audit and self.checkpoint is None:
            raise ValueError("data.audit is kept beside the checkpoints; set checkpoint, or remove data.audit")
        return self

    @property
    def log_directory(self) -> str | None:
        """Where the run's figures are written down; None: nowhere."""
        return self.trainer.logging.directory or self._beside_checkpoints("logs")

    @property
    def profile_directory(self) -> str | None:
        """Where traces are; None: on no volume."""
        return self.trainer.profile.directory or self._beside_checkpoints("profiles")

    def _beside_checkpoints(self, name: str) -> str | None:
        """A folder on the checkpoint volume; None: there is none."""
        if self.checkpoint is None or "://" in self.checkpoint.directory:
            return None
        return f"{self.checkpoint.directory}/{name}"

    @model_validator(mode="after")
    def _has_a_place_for_logs(self) -> RunConfig:
        if self.trainer.logging.kinds and self.log_directory is None:
            raise ValueError(
                "trainer.logging is written beside the checkpoints on a volume, and this job has none; set "
                "trainer.logging.directory to a folder on a volume of the workers, or checkpoint.volume"
            )
        return self

    @model_validator(mode="after")
    def _can_roll_back(self) -> RunConfig:
        guard = self.trainer.training.guard
        if "Rollback" not in (guard.on_non_finite, guard.on_spike):
            return self
        if self.checkpoint is None:
            raise ValueError(
                "trainer.training.guard: Rollback goes back to a checkpoint; set checkpoint, or take SkipStep or Fail"
            )
        if self.data.mode == "Dynamic":
            raise ValueError(
                "trainer.training.guard: Rollback leaves out the samples of a step, and with data.mode Dynamic a step has "
                "others the second time; take SkipStep or Fail, or data.mode Deterministic"
            )
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
        raise ConfigError(f"run config {path}: " + "; ".join(problems.lines(error, RunConfig))) from error
