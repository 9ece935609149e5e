"""Token stores in memory, made of the lengths of their documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from deepseek_trainer.data.store import StoreInfo, TokenStore

END = 0
"""The token that ends a document."""


def store_of(lengths: Sequence[int], *, folder: Path = Path("/nowhere"), loss_on: Sequence[int] = ()) -> TokenStore:
    """A store whose token i is i + 1, where it doesn't end a document: every token but the ends is another one.

    Args:
        lengths: tokens of each document, its end included; at least 1.
        loss_on: if there are any, only the tokens at these places are to be predicted.
    """
    documents = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = np.arange(1, documents[-1] + 1, dtype=np.uint32)
    tokens[documents[1:] - 1] = END
    targets = None
    if loss_on:
        targets = np.zeros(len(tokens), np.uint8)
        targets[list(loss_on)] = 1
    info = StoreInfo("f" * 64, len(tokens), len(lengths), len(tokens) + 1, "uint32", 1.0, {})
    return TokenStore(folder, info, tokens, documents, targets)
