"""How documents become batches, and in which order: `spec.data.batching` and `spec.data.shuffle`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from deepseek_trainer.config.base import Section


class ShuffleSpec(Section):
    """How far samples move from where they lie: blocks are shuffled, and all samples in a window of blocks."""

    block_samples: Annotated[int, Field(ge=1, le=2**24)] = Field(
        256,
        description="Neighbouring samples that are read together. A larger block is a longer read from the disk.",
    )
    window_blocks: Annotated[int, Field(ge=1, le=2**24)] = Field(
        1024,
        description="Blocks, from anywhere in the data, whose samples are shuffled together. Data of at most blockSamples x "
        "windowBlocks samples is shuffled completely. It should be several times trainer.training.globalBatchSize, and a "
        "window should fit into the memory of a node.",
    )
    read_ahead: bool = Field(
        True,
        description="Whether each node reads the blocks of the next window before they are due, for data of more than one "
        "window. With very many nodes on a slow volume, of which each needs little of a window, false may read less.",
    )


class BatchingSpec(Section):
    """How documents become the samples of a batch."""

    mode: Literal["Stream", "Packed", "Bucketed"] = Field(
        "Stream",
        description="Stream: a sample is trainer.training.sequenceLength tokens of all documents one after the other. "
        "Packed: as many whole documents as fit into that length, none of which sees another. Bucketed: one document; those of "
        "a global batch that are about as long are padded together. A longer document is split.",
    )
    document_mask: bool = Field(
        False,
        description="With mode Stream: no token sees a document before its own, and none is predicted from one. With the "
        "other modes it is always so.",
    )
    tokens_per_micro_batch: Annotated[int, Field(ge=8, le=2**31)] | None = Field(
        None,
        description="Tokens per forward pass of one rank, padding included, with mode Bucketed; a longer sample is a "
        "micro-batch of its own. Default: trainer.training.microBatchSize times sequenceLength.",
    )
    dealing: Literal["Even", "ByPace"] = Field(
        "Even",
        description="How many samples of a global batch each rank gets. Even: all as many, give or take one. ByPace: in "
        "proportion to the pace of the last steps, so that nobody waits for a slow one; what a step trains on is the same. Not "
        "with mode Bucketed.",
    )

    @model_validator(mode="after")
    def _rows_are_alike(self) -> BatchingSpec:
        if self.dealing == "ByPace" and self.mode == "Bucketed":
            raise ValueError(
                "dealing ByPace needs rows that cost the same; take mode Stream or Packed, or dealing Even"
            )
        return self
