"""Where each node keeps the last checkpoint once more; rendered by the launcher."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from deepseek_trainer.config.base import Section


class MemorySpec(Section):
    """Where each node keeps the last checkpoint once more. Rendered by the launcher from `spec.checkpoint.memory`."""

    directory: Annotated[str, Field(min_length=1)] = Field(description="A folder in memory, of this pod; absolute.")
    bytes: Annotated[int, Field(ge=1)] = Field(description="That all files in it may have together.")
    peer: bool = Field(True, description="Whether each node keeps the part of the node before it, too.")
