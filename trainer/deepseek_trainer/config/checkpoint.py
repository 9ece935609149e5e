"""Where and how often the state is saved; rendered by the launcher."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from deepseek_trainer.config.base import Section
from deepseek_trainer.config.memory import MemorySpec


class ResumeFrom(Section):
    """Another job's checkpoint that a new run begins with."""

    directory: Annotated[str, Field(min_length=1)] = Field(
        description="Folder of that job's checkpoints, or their URL; as `directory` of this job."
    )
    step: Annotated[int, Field(ge=0)] | None = Field(None, description="Of the checkpoint; None: the newest whole one.")
    optimizer: bool = Field(False, description="Whether the optimizer's state is taken over too.")


class CheckpointSpec(Section):
    """Where and how often the state is saved. Rendered by the launcher from `spec.checkpoint`."""

    directory: Annotated[str, Field(min_length=1)] = Field(
        description="Folder of this job's checkpoints, absolute; or its URL in an object store, as s3://bucket/prefix/job."
    )
    endpoint: str = Field("", description="URL of the object store's server, where it is not the provider's own.")
    mode: Literal["Async", "Sync"] = Field("Async", description="Async: steps go on while a checkpoint is written.")
    every_steps: Annotated[int, Field(ge=1)] | None = Field(
        100, description="Optimizer steps between two saves; None: they don't say when."
    )
    every_seconds: Annotated[int, Field(ge=1)] | None = Field(None, description="Seconds between two saves.")
    auto: bool = Field(False, description="The time between two saves is chosen by their cost and the failures so far.")
    keep: Annotated[int, Field(ge=1, le=1000)] = Field(3, description="Verified checkpoints that are kept.")
    keep_seconds: Annotated[int, Field(ge=1)] | None = Field(None, description="Younger ones are kept, too.")
    keep_every_steps: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Of every so many steps one is kept, too."
    )
    on_failure: Literal["Continue", "Fail"] = Field("Continue", description="What a save that fails does to training.")
    max_failures: Annotated[int, Field(ge=1)] = Field(10, description="With Continue: saves in a row that may fail.")
    resume_from: ResumeFrom | None = Field(None, description="What the run begins with before it has saved.")
    memory: MemorySpec | None = Field(None, description="Where the last one is kept in memory, too; None: nowhere.")

    @model_validator(mode="after")
    def _one_interval(self) -> CheckpointSpec:
        if sum((self.every_steps is not None, self.every_seconds is not None, self.auto)) != 1:
            raise ValueError("set one of everySteps, everySeconds and auto; the default of everySteps goes with null")
        return self
