"""Where a run writes its figures down: `spec.trainer.logging`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from deepseek_trainer.config.base import Section

Kind = Literal["JSONL", "TensorBoard", "WandB", "MLflow"]


class LoggingSpec(Section):
    """Series of loss, speed, memory and what else is measured, written by rank 0 beside the worker's own log."""

    kinds: Annotated[tuple[Kind, ...], Field(max_length=4)] = Field(
        (),
        description="What is written; nothing by default. JSONL: metrics.jsonl, a line for each record. The others need their "
        "package in the image (the trainer's extras tensorboard, wandb and mlflow). None of them ever stops training: "
        "what can't be written is left out, with a warning.",
    )
    directory: Annotated[str, Field(min_length=1, max_length=4096, pattern="^/")] | None = Field(
        None,
        description="Folder on a volume of the workers, absolute. Default: logs in the job's folder on the checkpoint volume.",
    )
    every_steps: Annotated[int, Field(ge=1)] = Field(
        10, description="Steps between two records; evaluations are all written."
    )
    project: Annotated[str, Field(min_length=1, max_length=128)] = Field(
        "deepseekjob", description="Project of W&B, experiment of MLflow; the run in it is named after the job."
    )
    tracking_uri: Annotated[str, Field(max_length=2048, pattern=r"^https?://[^@\s]+$")] | None = Field(
        None,
        description="MLflow's server; credentials are variables of its client (MLFLOW_TRACKING_TOKEN) in workers.envFrom. "
        "Default: MLFLOW_TRACKING_URI, else files in the folder mlflow of the directory.",
    )
    offline: bool = Field(
        False,
        description="true: W&B writes files into the directory and sends nothing; `wandb sync` does later. false: it needs "
        "WANDB_API_KEY in workers.envFrom.",
    )
    peak_tflops: Annotated[float, Field(gt=0, le=1_000_000)] | None = Field(
        None,
        description="Peak of one process' device in teraFLOPS, to which MFU is told. Default: the data sheet's dense bf16 of known "
        "GPUs; without one, as on CPUs, no MFU is told.",
    )
