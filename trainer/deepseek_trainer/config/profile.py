"""Traces of torch's profiler: `spec.trainer.profile`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from deepseek_trainer.config.base import Section


class ProfileSpec(Section):
    """Which steps are recorded, as Chrome traces (chrome://tracing, Perfetto, TensorBoard's profiler)."""

    from_step: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="The first step to be recorded. Without it, only what is asked for while the job runs: `kubectl exec POD -- "
        "touch /run/deepseekjob/profile` has all ranks of that pod record their next steps.",
    )
    steps: Annotated[int, Field(ge=1, le=50)] = Field(
        3, description="Steps in a trace. It grows with each, and writing it holds up all ranks."
    )
    ranks: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1, max_length=64)] = Field(
        (0,), description="Whose steps are recorded from fromStep on."
    )
    stacks: bool = Field(False, description="true: with the Python stack of each operation, which slows them down.")
    directory: Annotated[str, Field(min_length=1, max_length=4096, pattern="^/")] | None = Field(
        None,
        description="Folder for the traces, absolute. Default: profiles in the job's folder on the checkpoint volume, else in the "
        "pod's own /run/deepseekjob.",
    )
